"""A rule for when a ranking is decided."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..rag.dag.stage import Stage
from ..rag.nouns import Batch, Ranking, Verdict
from ..rag.parts import Count


class Margin(Stage):
    """Says ``enough`` of a ranking whose score drops by at least ``gap`` after the hit at ``at``, or that has no hit
    there; else ``undecided``. What ``Cascade`` may ask between its stages. Scores of different spaces need different
    gaps."""

    gap: Annotated[float, Field(ge=0)] = 1.0
    at: Count = 1

    def run(self, rankings: Batch[Ranking]) -> Batch[Verdict]:
        return Batch(map(self._verdict, rankings))

    def _verdict(self, ranking: Ranking) -> Verdict:
        if len(ranking) <= self.at:
            return Verdict("enough", reason=f"{len(ranking)} hits")
        drop = float(ranking.scores[self.at - 1] - ranking.scores[self.at])
        return Verdict("enough" if drop >= self.gap else "undecided", drop)
