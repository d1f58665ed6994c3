"""Indexes by the names that users give them: ``scheme:/path``, or the path alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ...rag.dag import stores
from ...rag.files import local_path
from .protocols import Store, StoreKind


def located(index: str | Path) -> tuple[StoreKind, Path]:
    """The kind of the index's store, and its folder. Raises ``ConfigError`` for what names none."""
    scheme, place = stores.split(index)
    return cast(StoreKind, stores.kind(scheme)), local_path(place, "index")


def open_index(index: str | Path) -> Store:
    """The passages of the index as they are now. Raises ``IndexNotFound``, ``IndexFormatError``."""
    kind, path = located(index)
    return kind.open(path)


def shared_store(index: str | Path) -> Store:
    """The passages of the index at the version that pipelines read, opened once in a pipeline
    (``rag.dag.stores.open_store``)."""
    return cast(Store, stores.open_store(stores.store_uri(index)))
