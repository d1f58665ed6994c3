"""Passages to documents."""

from __future__ import annotations

from ..rag.dag.stage import Stage
from ..rag.nouns import Batch, Ranking
from ..rag.parts import Count


class Parents(Stage):
    """Rank documents by their best passage (MaxP; Dai and Callan, SIGIR 2019): keep each document's first passage.

    The hits are still passages, one a document, so that what made the document rank can be shown. ``k`` limits the
    documents.
    """

    k: Count | None = None

    def run(self, rankings: Batch[Ranking]) -> Batch[Ranking]:
        """One hit a document, in the order of the best passages."""
        return Batch(self._first_of_each(ranking) for ranking in rankings)

    def _first_of_each(self, ranking: Ranking) -> Ranking:
        kept: dict[str, int] = {}
        for position, document_id in enumerate(ranking.store.document_ids(ranking.rows)):
            kept.setdefault(document_id, position)
        return ranking.take(list(kept.values())[:self.k])
