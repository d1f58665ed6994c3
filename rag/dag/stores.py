"""Passage stores, and what is stored with them, opened by name: the folders above are found through their tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..nouns import PassageStore
from ..tables import table
from .scope import shared

if TYPE_CHECKING:
    from ..lm.passages import Format, StoredPrefills


def open_store(uri: str) -> PassageStore:
    """Open the passage store at ``uri`` (``lance:/path/to/index``); inside a pipeline once, whatever asks for it."""
    scheme, _, place = uri.partition(":")
    opener = table("regard.stores")[scheme]
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
    stored: StoredPrefills = table("regard.prefills")["attention"](index, lm, form, last)
    return stored
