"""Several rankings of the same query into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..rag.dag.stage import Stage
from ..rag.errors import ConfigError
from ..rag.nouns import Batch, Group, PassageList, Ranking, Rows, Scores, ScoreSpace, Step, united
from ..rag.parts import Count


class Fuse(Stage):
    """Fuse rankings: reciprocal rank fusion, or weighted sums of normalised scores.

    - ``rrf``: sum of weight / (c + rank) (Cormack, Clarke, Buettcher, SIGIR 2009; c = 60); a passage that a ranking
      lacks adds nothing.
    - ``minmax``: weighted sum of scores mapped to [0, 1] within each ranking; a passage that a ranking lacks counts 0
      there.
    - ``zscore``: weighted sum of (score - mean) / std within each ranking; a passage that it lacks counts as its
      lowest.

    ``weights`` has one number a ranking (default 1 each); ``k`` is how many hits are kept. Equal scores keep the order
    of the first ranking that has them. A hit's history names every ranking it came from. The rankings may be of
    different stores (two indexes, an index and passages in memory): the same row of the same store is one hit, passages
    of different stores stay apart.
    """

    method: Literal["rrf", "minmax", "zscore"] = "rrf"
    weights: Sequence[float] | None = None
    c: float = 60.0
    k: Count = 100

    def run(self, *rankings: Batch[Ranking | Group[Ranking]]) -> Batch[Ranking]:
        """``rankings[j][i]`` is ranking ``j`` of query ``i``, or a group of them. Raises ``ConfigError`` when there is
        not one weight a ranking."""
        return Batch(self._fuse([member for one in of_query for member in (one if isinstance(one, Group) else (one,))])
                     for of_query in zip(*rankings, strict=True))

    def _fuse(self, rankings: Sequence[Ranking]) -> Ranking:
        if not rankings:  # a group without members
            return Ranking.ranked([], [], self._space, PassageList([]))
        if self.weights is not None and len(self.weights) != len(rankings):
            raise ConfigError(f"{len(self.weights)} weights for {len(rankings)} rankings", where="Fuse",
                              hint="give one weight a ranking, in the order they are connected")
        store, of_each = united([ranking.store for ranking in rankings], [ranking.rows for ranking in rankings])
        rows, places = _union(of_each)
        total = np.zeros(len(rows), dtype=np.float64)
        for ranking, place, weight in zip(rankings, places, self.weights or [1.0] * len(rankings), strict=True):
            if len(ranking):
                total += weight * self._column(ranking, place, len(rows))
        fused = Ranking.ranked(rows, total.astype(np.float32), self._space, store,
                               history=_history(rankings, places, len(rows)))
        return fused.top(self.k)

    @property
    def _space(self) -> ScoreSpace:
        return "rrf" if self.method == "rrf" else "weighted-sum"

    def _column(self, ranking: Ranking, place: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """This ranking's share of each fused row's score, float64 [n]."""
        scores = ranking.scores.astype(np.float64)
        if self.method == "rrf":
            values, missing = 1.0 / (self.c + np.arange(1, len(ranking) + 1)), 0.0
        elif self.method == "minmax":
            low, high = scores.min(), scores.max()
            values, missing = (scores - low) / (high - low) if high > low else np.ones_like(scores), 0.0
        else:
            spread = scores.std()
            values = (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
            missing = float(values.min())
        column = np.full(n, missing)
        column[place] = values
        return column


def _union(of_each: Sequence[Rows]) -> tuple[Rows, list[NDArray[np.int64]]]:
    """All rows in the order in which the rankings first name them, and each ranking's positions among them."""
    everything = np.concatenate(of_each)
    unique, first, back = np.unique(everything, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    ends = np.cumsum([len(rows) for rows in of_each])[:-1]
    return unique[order], np.split(position[back], ends)


def _history(rankings: Sequence[Ranking], places: Sequence[NDArray[np.int64]], n: int) -> tuple[Step, ...]:
    """Every step of every ranking over the fused rows; rankings that share an earlier stage share its step."""
    columns: dict[str, tuple[str, NDArray[np.int32], Scores]] = {}
    for ranking, place in zip(rankings, places, strict=True):
        for step in ranking.steps:
            _, ranks, scores = columns.setdefault(step.stage,
                                                  (step.space, np.zeros(n, np.int32), np.zeros(n, np.float32)))
            ranked = step.ranks > 0
            ranks[place[ranked]] = step.ranks[ranked]
            scores[place[ranked]] = step.scores[ranked]
    return tuple(Step(stage, *column) for stage, column in columns.items())
