"""Runs and judgments in memory, and the one rule for ties.

A run's order is: score, descending; equal scores in the order in which the dict holds them. ``trec_eval`` has another
rule (equal scores by document id, descending) and compares scores in single precision, so :func:`untied` turns our
order into strictly decreasing float32 scores before a run leaves this process or reaches a metric: every tool then sees
the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError
from ..nouns import Query, Ranking

Run = dict[str, dict[str, float]]
"""query id -> document id -> score, higher is better."""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> relevance grade; 0 or less is judged not relevant."""


def expect_judged(judged: Any, what: str, kind: type | tuple[type, ...]) -> None:
    """Raise ``EvaluationError`` unless ``judged`` maps query ids to documents to values of ``kind``."""
    if not isinstance(judged, Mapping):
        raise EvaluationError(f"{what} is a {type(judged).__name__}", where=what,
                              hint="query id -> document id -> number")
    for query, documents in judged.items():
        good = isinstance(query, str) and isinstance(documents, Mapping) and all(
            isinstance(name, str) and isinstance(value, kind) for name, value in documents.items())
        if not good:
            raise EvaluationError(f"{what} of query {query!r:.80} is none: {documents!r:.80}", where=what,
                                  hint="query id -> document id -> number")


def run_from_rankings(
    queries: Sequence[Query], rankings: Sequence[Ranking], by: Literal["document", "passage"] = "document",
) -> Run:
    """A run over document ids or passage ids; ranking ``i`` answers query ``i``.

    Under ``by="document"`` a document has the score of its best passage (MaxP, Dai and Callan 2019, arXiv:1905.09217),
    which is the first one met. Scores are strictly decreasing in float32, so the rankings' order survives every tool.
    Raises ``EvaluationError`` for unequal lengths or a query id that comes twice.
    """
    if len(queries) != len(rankings):
        raise EvaluationError(f"{len(queries)} queries but {len(rankings)} rankings", where="run_from_rankings")
    run: Run = {}
    for query, ranking in zip(queries, rankings, strict=True):
        if query.id in run:
            raise EvaluationError(f"two queries have the id {query.id!r}", hint="give every query its own id")
        names = ranking.store.document_ids(ranking.rows) if by == "document" else [passage.id
                                                                                   for passage in ranking.passages()]
        best: dict[str, float] = {}
        for name, score in zip(names, ranking.scores.tolist(), strict=True):
            best.setdefault(name, score)
        run[query.id] = _decreasing(best.items(), query.id)
    return run


def untied(run: Run) -> Run:
    """The same order with strictly decreasing scores, each exactly a float32; documents are listed best first.

    A score that is not below its predecessor becomes the next float32 below it; other scores are rounded to float32.
    Raises ``EvaluationError`` for a score that is not finite in float32.
    """
    expect_judged(run, "the run", (int, float, np.number))
    return {
        query: _decreasing(sorted(documents.items(), key=lambda item: -item[1]), query)
        for query, documents in run.items()
    }


def _decreasing(items: Iterable[tuple[str, float]], query: str) -> dict[str, float]:
    """Keep the order of ``items``; lower each score just as far as needed."""
    pairs = list(items)
    with np.errstate(over="ignore"):
        scores = np.array([score for _, score in pairs], dtype=np.float64).astype(np.float32)
    keys = _to_keys(scores + np.float32(0))
    steps = np.arange(len(keys))
    lowered = _from_keys(np.minimum.accumulate(keys + steps) - steps)
    if not (np.isfinite(scores).all() and np.isfinite(lowered).all()):
        raise EvaluationError("a score is not a finite 32-bit number", where=f"query {query!r}",
                              hint="trec_eval compares scores in single precision: scale them")
    return dict(zip((name for name, _ in pairs), lowered.tolist(), strict=True))


def _to_keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers in the order of the floats; neighbouring floats get neighbouring integers (IEEE 754 is sign and
    magnitude)."""
    bits = scores.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _from_keys(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude = np.abs(keys).astype(np.uint32)
    return np.where(keys >= 0, magnitude, magnitude | np.uint32(0x80000000)).astype(np.uint32).view(np.float32)
