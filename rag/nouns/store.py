"""Where a ranking's rows get their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import StageError
from .text import Passage

Rows = NDArray[np.int64]


@runtime_checkable
class PassageStore(Protocol):
    """Where a ranking's rows get their text. A row is an int64 that names one passage of one store for ever."""

    @property
    def uri(self) -> str:
        """Where ``regard.rag.dag.stores.open_store`` finds this store again; empty for a store in memory."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content does."""

    @property
    def has_text(self) -> bool: ...

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """The passages of ``rows``, in that order."""

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The document of each of ``rows``, without fetching text."""


class FilteredStore(PassageStore, Protocol):
    """A passage store that knows which of its passages meet a query's filters."""

    def select(self, filters: Mapping[str, Any]) -> Rows:
        """The rows whose passage meets ``filters``, int64 in the store's order: on its metadata, ``id``,
        ``document_id`` and ``title`` (``indexers.stores.filters``).

        Raises ``QueryError`` for a field that no passage has, and for an operator that there is not.
        """


class PassageList:
    """A passage store in memory; row ``i`` is the ``i``-th passage."""

    __slots__ = ("_passages",)
    uri = ""
    has_text = True

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)

    @property
    def fingerprint(self) -> str:
        return f"memory:{id(self)}"

    def __len__(self) -> int:
        return len(self._passages)

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        return [self._passages[row] for row in self._expect(rows)]

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        return [self._passages[row].document_id for row in self._expect(rows)]

    def _expect(self, rows: Sequence[int] | Rows) -> list[int]:
        wanted = [int(row) for row in rows]
        if any(not 0 <= row < len(self) for row in wanted):
            raise StageError(f"a ranking names rows outside the {len(self)} passages of its store", where="PassageList")
        return wanted
