"""Lexical retrieval."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem, Stage
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts import Card, Count
from .search import IndexPlace, OpenIndex, Search


class BM25(Stage):
    """BM25, Lucene's variant by bm25s, English stems: ``Search`` in the view ``bm25``.

    Of the passages of ``index`` a query gets those that share a word with it, at most ``k``; ``filters`` hold for every
    query, a query's own are added. Scores are in the space ``bm25``.
    """

    card = Card("Robertson et al.", 1994, note="Lucene's variant as in Kamphuis et al. 2020")

    index: IndexPlace = None
    k: Count = 100
    filters: Mapping[str, Any] = {}

    @functools.cached_property
    def search(self) -> Search:
        """What it is."""
        return Search(self.index, view="bm25", k=self.k, filters=self.filters)

    @property
    def store_uri(self) -> str:
        return self.search.store_uri

    def open(self, scope: Scope, /) -> OpenIndex:
        return scope.open(self.search)

    def identity(self) -> Any:
        return self.search.identity()

    def check(self) -> Iterator[Problem]:
        return self.search.check()

    def run(self, opened: OpenIndex, queries: Batch[Query]) -> Batch[Ranking]:
        """The best passages of each query."""
        return self.search.run(opened, queries)
