"""What the tables hold, for ``regard methods`` and for whoever writes a list of methods."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import Any

from ..errors import ConfigError, RegardError
from ..tables import Table, table

_CARD = ("authors", "year", "arxiv", "code", "note")


@dataclass(frozen=True, slots=True)
class Method:
    """An entry of a table. ``summary`` is the first sentence of its docstring, ``card`` what its paper is, where it has
    one (authors, year, arxiv, code, note). ``error`` says why it cannot be imported; empty for one that can."""

    group: str
    name: str
    place: str
    summary: str = ""
    card: dict[str, Any] | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def groups() -> list[str]:
    """The entry-point groups of Regard's tables, sorted."""
    return sorted(group for group in entry_points().groups if group.startswith("regard."))


def methods(*names: str) -> list[Method]:
    """The entries of the tables ``names`` (none: of all), each imported. One that cannot be is listed with its error.

    Raises ``ConfigError`` for a group that no distribution brings.
    """
    known = groups()
    for group in names:
        if group not in known:
            raise ConfigError(f"there is no table {group!r}", where="regard methods",
                              hint=f"tables: {', '.join(known)}")
    return [_method(table(group), name) for group in names or known for name in table(group)]


def _method(held: Table, name: str) -> Method:
    place = held.place_of(name) or "this session"
    try:
        thing = held[name]
    except RegardError as error:
        return Method(held.group, name, place, error=error.what)
    return Method(held.group, name, place, _summary(thing), _card(thing))


def _summary(thing: Any) -> str:
    """The first sentence of the docstring of a class or function; what else is listed has none of its own."""
    documented = inspect.isclass(thing) or inspect.isroutine(thing)
    if not documented:
        return ""
    paragraph = " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph, maxsplit=1)[0]


def _card(thing: Any) -> dict[str, Any] | None:
    card = getattr(thing, "card", None)
    return None if card is None else {field: getattr(card, field, None) for field in _CARD}
