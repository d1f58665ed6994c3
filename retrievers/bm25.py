"""Lexical retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..indexers.stores.lance.store import LanceStore
from ..indexers.views import ViewKind, parse_view
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts.settings import Count
from .first_stage import FirstStage


class BM25(FirstStage):
    """BM25 (Robertson et al. 1994; Lucene's variant as in Kamphuis et al. 2020, by bm25s), English stems.

    ``index`` is the index folder, ``k`` how many passages a query gets at the most (only those that share a word with it),
    ``filters`` hold for every query; a query's own filters are added. Scores are in the space ``bm25``.
    """

    def __init__(self, index: str | Path | None = None, k: Count = 100, filters: dict[str, Any] | None = None) -> None:
        self.index = None if index is None else Path(index)
        self.k = k
        self.filters = filters or {}

    def spec(self, store: LanceStore) -> ViewKind:
        return parse_view("bm25")

    def run(self, queries: Batch[Query]) -> Batch[Ranking]:
        """The best passages of each query."""
        return self.retrieve(queries, "bm25", lambda positions, allowed: self._view.search(
            [queries[i].text for i in positions], self.k, allowed))
