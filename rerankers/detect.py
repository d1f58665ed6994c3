"""Which attention heads of a language model tell relevant passages apart, measured on judged queries.

Every head ranks each query's candidates on its own, by its calibrated attention to them (what the query pays less what a content-free
query pays, ICR's calibration). The candidates are shuffled first: in the first stage's order, heads that merely favour what is near
would look good. Three measures, each the mean over queries with a bootstrap interval:
- ``ndcg``: nDCG@10 of the head's ranking, over the judged candidates.
- ``qr_score``: the attention to all relevant passages together (QRHead, Zhang et al. 2025, arXiv 2506.09944; there the query's own
  tokens are the rows, here all from the instruction on, as in ICR).
- ``contrastive``: a relevant passage's share in a softmax over it and the negatives, mean over relevant passages (after CoRe, arXiv
  2510.02219; the temperature is ours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..rag.documents import Batch, Query, Ranking
from ..rag.errors import EvaluationError
from ..rag.evaluation.beir import read_queries
from ..rag.evaluation.trec import read_qrels
from ..rag.lm import LanguageModel
from ..rag.lm.heads import HeadSet, Measure
from ..rag.lm.passages import Format, lay_out
from ..rag.models import resolve, weights_hash
from ..rag.progress import progress_bar
from ..rag.registry import stage_class
from .attention import Task, suffixes_of
from .policies import ICR, BlockICR, Policy

Tables = dict[Measure, NDArray[np.float64]]

TEMPERATURE = 0.01
"""Of the contrastive measure; a head's attention to a passage lies between -1 and 1."""

_CUT = 10
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    """One query's shuffled candidates with their gains (0: not relevant)."""

    query: Query
    candidates: Ranking
    gains: NDArray[np.float64]


def detect_heads(
    lm: str, queries: Sequence[Query], rankings: Sequence[Ranking], qrels: Mapping[str, Mapping[str, int]], out: str | Path, *,
    mask: Literal["causal", "block"] = "block", depth: int = 20, task: Task = "search", collection: str = "", seed: int = 0,
    device: str | None = None,
) -> HeadSet:
    """Measure all heads of ``lm`` on the first ``depth`` candidates of each ranking, and write the head set to ``out``.

    A query counts when it has both a relevant candidate and one that is not. Raises ``EvaluationError`` when none has.
    """
    judged = _judged(queries, rankings, qrels, depth, seed)
    policy: Policy = BlockICR() if mask == "block" else ICR()
    model = LanguageModel.acquire(lm, device=device)
    try:
        with progress_bar("detecting heads", len(judged), "queries") as advance:
            measured = []
            for case in judged:
                measured.append(measures_of(_head_scores(model, policy, case, task), case.gains))
                advance(1, "")
    finally:
        model.release()
    recipe = {"collection": collection, "queries": len(judged), "candidates": depth, "order": "shuffled", "seed": seed, "mask": mask,
              "positions": policy.positions, "task": task, "calibration": policy.calibration, "temperature": TEMPERATURE,
              "resamples": _RESAMPLES}
    found = _head_set(lm, recipe, measured, seed)
    found.save(Path(out))
    return found


def detect_on_index(
    lm: str, queries: str | Path, index: str | Path, qrels: str | Path, out: str | Path, *, limit: int = 0, seed: int = 0,
    depth: int = 20, **settings: Any,
) -> HeadSet:
    """:func:`detect_heads` on the first ``depth`` passages that BM25 finds in ``index``; ``limit`` takes that many random queries."""
    grades = read_qrels(qrels)
    asked = [query for query in read_queries(queries) if query.id in grades]
    if limit and limit < len(asked):
        asked = [asked[i] for i in sorted(np.random.default_rng(seed).permutation(len(asked))[:limit])]
    make: Any = stage_class("BM25")
    first_stage = make(str(index), k=depth)
    first_stage.open()
    try:
        rankings = first_stage.run(Batch(asked))
    finally:
        first_stage.close()
    return detect_heads(lm, asked, rankings, grades, out, depth=depth, seed=seed, collection=Path(index).name, **settings)


def _judged(
    queries: Sequence[Query], rankings: Sequence[Ranking], qrels: Mapping[str, Mapping[str, int]], depth: int, seed: int,
) -> list[Judged]:
    random = np.random.default_rng(seed)
    judged = []
    for query, ranking in zip(queries, rankings, strict=True):
        candidates = ranking.take(random.permutation(min(depth, len(ranking))))
        grades = qrels.get(query.id, {})
        gains = np.array([max(0, grades.get(p.document_id, 0)) for p in candidates.passages()], dtype=np.float64)
        if gains.any() and not gains.all():
            judged.append(Judged(query, candidates, gains))
    if not judged:
        raise EvaluationError(f"none of {len(queries)} queries has both a relevant candidate and another among its first {depth}",
                              where="heads detect", hint="check that queries, index and qrels belong together, or raise --depth")
    return judged


def _head_scores(model: LanguageModel, policy: Policy, case: Judged, task: Task) -> NDArray[np.float64]:
    """Calibrated attention of each head to each candidate, [layers, heads, candidates]."""
    form = Format(policy.marker, policy.separator)
    suffixes = suffixes_of(model, form, task, case.query.text, policy.calibration)
    prompt = lay_out(model, form, case.candidates.passages(), range(len(case.candidates)), suffixes, policy.mask, policy.positions,
                     where=f"query {case.query.id!r}")
    scores = model.head_scores(prompt.context, suffixes, prompt.spans, mask=prompt.mask, positions=prompt.positions,
                               blocks=prompt.blocks, weights=[1.0, -1.0], after=prompt.after)
    return scores.astype(np.float64)


def measures_of(scores: NDArray[np.float64], gains: NDArray[np.float64]) -> Tables:
    """All measures of one query: ``scores`` [layers, heads, candidates] and ``gains`` [candidates] to tables [layers, heads]."""
    relevant = gains > 0
    return {"ndcg": _ndcg(scores, gains), "qr_score": scores[..., relevant].sum(axis=-1), "contrastive": _contrastive(scores, relevant)}


def _ndcg(scores: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :_CUT]
    discounts = 1 / np.log2(np.arange(2, order.shape[-1] + 2))
    best = np.sort(gains)[::-1][:len(discounts)] @ discounts
    found: NDArray[np.float64] = gains[order] @ discounts / best
    return found


def _contrastive(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    scaled = scores / TEMPERATURE
    negatives = np.logaddexp.reduce(scaled[..., ~relevant], axis=-1)[..., None]
    shares: NDArray[np.float64] = np.exp(scaled[..., relevant] - np.logaddexp(scaled[..., relevant], negatives)).mean(axis=-1)
    return shares


def _head_set(lm: str, recipe: dict[str, Any], measured: Sequence[Tables], seed: int) -> HeadSet:
    """Means and 95 % percentile bootstrap intervals over the queries."""
    counts = np.random.default_rng(seed).multinomial(len(measured), np.full(len(measured), 1 / len(measured)), size=_RESAMPLES)
    means, intervals = {}, {}
    for name in measured[0]:
        table = np.stack([one[name] for one in measured])
        low, high = np.percentile(np.tensordot(counts / len(measured), table, axes=1), [2.5, 97.5], axis=0)
        means[name] = table.mean(axis=0).round(6).tolist()
        intervals[name] = np.stack([low, high], axis=-1).round(6).tolist()
    return HeadSet(lm, weights_hash(resolve(lm)), recipe, means, intervals)
