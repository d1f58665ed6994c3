"""Lexical retrieval."""

from __future__ import annotations

from ..indexers.stores.lance.store import LanceStore
from ..indexers.views import ViewSpec, parse_view
from ..rag.dag.scope import Scope
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts import Card
from .first_stage import FirstStage, OpenIndex


class BM25(FirstStage):
    """BM25, Lucene's variant by bm25s, English stems.

    Of the passages of ``index`` a query gets those that share a word with it, at most ``k``. Scores are in the space ``bm25``.
    """

    card = Card("Robertson et al.", 1994, note="Lucene's variant as in Kamphuis et al. 2020")

    def spec(self, store: LanceStore) -> ViewSpec:
        return parse_view("bm25")

    def open(self, scope: Scope, /) -> OpenIndex:
        return self.open_index(scope)

    def run(self, opened: OpenIndex, queries: Batch[Query]) -> Batch[Ranking]:
        """The best passages of each query."""
        return self.retrieve(opened, queries, "bm25", lambda positions, allowed: opened.view.search(
            [queries[i].text for i in positions], self.k, allowed))
