"""Names to things, through entry points, so that ``rag`` never imports the folders above it.

Groups: ``regard.stages`` (name -> stage class), ``regard.stores`` (scheme -> opener of a passage store), ``regard.encoders``,
``regard.jobs`` (what the command line runs), ``regard.prefills`` (openers of stored keys and values).
"""

from __future__ import annotations

import functools
import os
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from .documents import PassageStore
from .errors import ConfigError
from .scope import shared
from .stage import Stage

if TYPE_CHECKING:
    from .lm.passages import Format, StoredPrefills


@functools.cache
def _group(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def load(group: str, name: str) -> Any:
    """The object registered as ``name`` in ``group``. Raises ``ConfigError`` with the nearest names."""
    points = _group(group)
    if name not in points:
        near = get_close_matches(name, points, n=3)
        raise ConfigError(f"nothing is registered as {name!r} in {group}", where=group,
                          hint=f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(points)) or 'none'}")
    return points[name].load()


def stage_names() -> list[str]:
    return sorted(_group("regard.stages"))


def stage_class(name: str) -> type[Stage]:
    """The stage class that a YAML file calls ``name``."""
    found: type[Stage] = load("regard.stages", name)
    return found


def open_store(uri: str) -> PassageStore:
    """Open the passage store at ``uri`` (``lance:/path/to/index``); inside a pipeline once, whatever asks for it."""
    scheme, _, place = uri.partition(":")
    opener = load("regard.stores", scheme)
    store: PassageStore = shared(("store", scheme, _one_name(place)), lambda: opener(place))
    return store


def _one_name(place: str) -> str:
    """One name for one folder, however it is spelled; for what can be none, the opener has an error."""
    try:
        return os.path.realpath(place)
    except ValueError:  # a NUL in it
        return place


def open_prefills(index: str, lm: str, form: Format, last: int) -> StoredPrefills:
    """The keys and values of the passages of ``index`` by model ``lm`` up to layer ``last``, for prompts of ``form``."""
    stored: StoredPrefills = load("regard.prefills", "attention")(index, lm, form, last)
    return stored
