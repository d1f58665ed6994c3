"""Passage stores, and what is stored with them, opened by name: the folders above are found through their tables.

An index is named by the URI of its store, ``scheme:/path``, or by the path alone, which means the kind that the table
``regard.stores`` lists as ``path``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nouns import PassageStore
from ..tables import table
from .scope import shared

if TYPE_CHECKING:
    from ..lm.passages import Format, StoredPrefills

BARE = "path"


def kind(scheme: str) -> Any:
    """What the table lists for the scheme (``indexers.stores.protocols.StoreKind``). Raises ``ConfigError`` for an
    unknown one."""
    return table("regard.stores")[scheme]()


def split(index: Any) -> tuple[str, Any]:
    """The scheme of an index's name, and its place; ``path`` for one that has none."""
    scheme, colon, place = str(index).partition(":")
    known = colon and isinstance(index, str | os.PathLike) and scheme in table("regard.stores")
    return (scheme, place) if known else (BARE, index)


def store_uri(index: str | Path) -> str:
    """The URI of an index's store: ``scheme:/path``."""
    scheme, place = split(index)
    return f"{kind(scheme).scheme}:{place}"


def index_of(uri: str) -> Path:
    """The index whose store has this URI, as :func:`store_uri` takes it: a path where that says it all."""
    scheme, place = split(uri)
    return Path(place if kind(BARE).scheme == scheme else uri)


def is_listed(uri: str) -> bool:
    """Whether the table knows the URI's scheme; the others are not of indexes."""
    return split(uri)[0] != BARE


def folder_of(uri: str) -> Path:
    """The folder of the index whose store has this URI."""
    return Path(split(uri)[1])


def index_exists(index: str | Path) -> bool:
    """Whether there is an index of this name."""
    scheme, place = split(index)
    return bool(kind(scheme).exists(Path(place)))


def open_store(uri: str) -> PassageStore:
    """Open the passage store at ``uri`` (``scheme:/path/to/index``); inside a pipeline once, whatever asks for it."""
    scheme, _, place = uri.partition(":")
    found = kind(scheme)
    store: PassageStore = shared(("store", found.scheme, _one_name(place)), lambda: found.serve(place))
    return store


def _one_name(place: str) -> str:
    """One name for one folder, however it is spelled; for what can be none, the opener has an error."""
    try:
        return os.path.realpath(place)
    except ValueError:  # a NUL in it
        return place


def open_prefills(index: str, lm: str, form: Format, last: int) -> StoredPrefills:
    """The keys and values of the passages of ``index`` by model ``lm`` up to layer ``last``, for prompts of
    ``form``."""
    stored: StoredPrefills = table("regard.prefills")["attention"](index, lm, form, last)
    return stored
