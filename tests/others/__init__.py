"""A distribution of somebody else's parts, with tables of its own: a file a part, a line in a table.

``installed`` is what installing it would do: its tables stand under Regard's entry-point groups. Contract suites run over ``names(kind)``,
so that a part that is listed here is tested by being listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any
from unittest import mock

from regard.rag import tables
from regard.rag.parts import Part

POLICIES = {"UpperLayers": ".upper_layers:UpperLayers"}
CHUNKERS = {"Paragraphs": ".paragraphs:Paragraphs"}

GROUPS = {"regard.policies": "POLICIES", "regard.chunkers": "CHUNKERS"}
"""The tables above by the entry-point groups that a ``pyproject.toml`` would name them under."""


@contextmanager
def installed(groups: Mapping[str, str] = GROUPS, module: str = __name__) -> Iterator[None]:
    """The tables of ``module`` (their names by group) beside those of what is really installed."""
    really = tables.entry_points

    def entry_points(*, group: str) -> EntryPoints:
        own = [EntryPoint("others", f"{module}:{groups[group]}", group)] if group in groups else []
        return EntryPoints([*really(group=group), *own])

    with mock.patch.object(tables, "entry_points", entry_points):
        _read_anew(groups)
        yield
    _read_anew(groups)


def names(kind: type[Part]) -> list[str]:
    """All parts of a kind, these included: what a contract suite runs over, with ``installed``."""
    with installed():
        return kind.table().names()


def _read_anew(groups: Mapping[str, Any]) -> None:
    for group in groups:
        vars(tables.table(group)).pop("_places", None)
