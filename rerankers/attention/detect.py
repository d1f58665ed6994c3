"""Which attention heads of a language model tell relevant passages apart, measured on judged queries.

Every head ranks each query's candidates on its own. The candidates are shuffled first: in the first stage's order,
heads that merely favour what is near would look good. Four measures, each the mean over queries with a bootstrap
interval:
- ``ndcg``, ours: nDCG@10 of the head's ranking by its calibrated attention (what the query pays less what a
  content-free query pays, ICR's calibration), over the judged candidates.
- ``qrhead_ndcg`` and ``qrhead_score`` (QRHead, Zhang et al. 2025, arXiv 2506.09944; princeton-pli/QRHead): a passage's
  score is the head's calibrated attention to its tokens, without those more than 2 standard deviations below the
  passage's mean. From it nDCG@10, by which the authors choose heads for search, and the sum over all relevant passages,
  by which they do for question answering.
- ``core_score`` (CoRe, Tran et al. 2025, arXiv 2510.02219; linhhtran/CoRe-Reranking): the share of one relevant passage
  in a softmax of uncalibrated attention over it and the passages that are not relevant; other relevant ones are left
  out. The relevant one is that of the highest grade, of equal ones the first stage's best. The temperature is .1 for
  models named Llama or Phi, .001 for others.

Under the causal mask each is taken in the prompt of the policy that uses it: ``ICR``, ``QRHead``, ``CoRe``. Under the
block mask all are taken in that of ``BlockICR``, which is ours to use. Departs: the authors' candidates are their own
files' (of NQ), not shuffled by us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...rag.errors import ConfigError, EvaluationError
from ...rag.evaluation.beir import read_queries
from ...rag.evaluation.significance import mean_interval
from ...rag.evaluation.trec import read_qrels
from ...rag.lm import LanguageModel
from ...rag.lm.heads import HeadSet, Measure
from ...rag.lm.prefill import tiled
from ...rag.models import resolve, weights_hash
from ...rag.nouns import Query, Ranking
from ...rag.progress import progress_bar
from ...rag.tables import table
from ...rag.text import Span
from .policies import ICR, BlockICR, CoRe, Policy, QRHead
from .policies.policy import Task, named, prompt_of

Tables = dict[Measure, NDArray[np.float64]]
HeadMask = Literal["causal", "block"]

DEVIATIONS = 2.0
"""Of QRHead's filter."""

_CUT = 10
_RESAMPLES = 1000
_BOUNDS: dict[Measure, tuple[float, float]] = {
    "ndcg": (0, 1), "qrhead_ndcg": (0, 1), "qrhead_score": (-1, 1), "core_score": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One query's shuffled candidates with their gains (0: not relevant); ``positive`` is the place among them of the
    best one."""

    query: Query
    candidates: Ranking
    gains: NDArray[np.float64]
    positive: int


def detect_heads(
    lm: str, queries: Sequence[Query], rankings: Sequence[Ranking], qrels: Mapping[str, Mapping[str, int]],
    out: str | Path, *, mask: HeadMask = "block", depth: int = 20, task: Task = "search", collection: str = "",
    seed: int = 0, temperature: float | None = None, device: str | None = None,
) -> HeadSet:
    """Measure all heads of ``lm`` on the first ``depth`` candidates of each ranking, and write the head set to ``out``.

    A query counts when it has both a relevant candidate and one that is not. ``temperature`` is that of ``core_score``,
    None: its authors' for this model. Raises ``EvaluationError`` when no query counts, ``ConfigError`` for a
    temperature of 0 or less.
    """
    temperature = temperature_for(lm) if temperature is None else temperature
    if temperature <= 0:
        raise ConfigError(f"a temperature of {temperature} gives no softmax", where="heads detect",
                          hint="set it above 0, like .001 or .1")
    judged = _judged(queries, rankings, qrels, depth, seed)
    model = LanguageModel.acquire(lm, device=device, attention=True)
    try:
        with progress_bar("detecting heads", len(judged), "queries") as advance:
            measured = []
            for case in judged:
                measured.append(measured_in(model, mask, case, task, temperature))
                advance(1, "")
    finally:
        model.release()
    recipe = {"collection": collection, "queries": len(judged), "candidates": depth, "order": "shuffled", "seed": seed,
              "mask": mask, "positions": "shared" if mask == "block" else "distinct", "task": task,
              "calibration": ICR().calibration, "deviations": DEVIATIONS, "temperature": temperature,
              "resamples": _RESAMPLES}
    found = _head_set(lm, recipe, measured, seed)
    found.save(Path(out))
    return found


def detect_on_index(
    lm: str, queries: str | Path, index: str | Path, qrels: str | Path, out: str | Path, *, limit: int = 0,
    seed: int = 0, depth: int = 20, **settings: Any,
) -> HeadSet:
    """:func:`detect_heads` on the first ``depth`` passages that BM25 finds in ``index``; ``limit`` takes that many
    random queries."""
    grades = read_qrels(qrels)
    asked = [query for query in read_queries(queries) if query.id in grades]
    if limit and limit < len(asked):
        asked = [asked[i] for i in sorted(np.random.default_rng(seed).permutation(len(asked))[:limit])]
    rankings = table("regard.stages")["BM25"](index, k=depth).apply(asked)
    collection = Path(index).name
    return detect_heads(lm, asked, rankings, grades, out, depth=depth, seed=seed, collection=collection, **settings)


def _judged(
    queries: Sequence[Query], rankings: Sequence[Ranking], qrels: Mapping[str, Mapping[str, int]],
    depth: int, seed: int,
) -> list[Judged]:
    random = np.random.default_rng(seed)
    judged = []
    for query, ranking in zip(queries, rankings, strict=True):
        shuffled = random.permutation(min(depth, len(ranking)))
        candidates = ranking.take(shuffled)
        grades = qrels.get(query.id, {})
        gains = np.array([max(0, grades.get(p.document_id, 0)) for p in candidates.passages()], dtype=np.float64)
        if gains.any() and not gains.all():
            judged.append(Judged(query, candidates, gains, int(np.lexsort((shuffled, -gains))[0])))
    if not judged:
        raise EvaluationError(
            f"none of {len(queries)} queries has both a relevant candidate and another among its first {depth}",
            where="heads detect", hint="check that queries, index and qrels belong together, or raise --depth")
    return judged


def temperature_for(lm: str) -> float:
    """CoRe's softmax temperature for model ``lm``, as its authors chose it."""
    return 0.1 if named(lm, "llama") or named(lm, "phi") else 0.001


def measured_in(model: LanguageModel, mask: HeadMask, case: Judged, task: Task, temperature: float) -> Tables:
    """All measures of one query, each in the prompt of the policy that uses it."""
    if mask == "block":
        seen = _Seen(model, BlockICR(), case, task)
        return seen.ndcg() | seen.qrhead() | seen.core(temperature)
    return (_Seen(model, ICR(), case, task).ndcg() | _Seen(model, QRHead(), case, task).qrhead()
            | _Seen(model, CoRe(), case, task).core(temperature))


class _Seen:
    """One query's candidates in a policy's prompt, run up to the suffixes, and what each head pays them."""

    def __init__(self, model: LanguageModel, policy: Policy, case: Judged, task: Task) -> None:
        self.model, self.case = model, case
        form = policy.form(model.info.name, case.query.text)
        prompt = prompt_of(policy, model, form, case.candidates.passages(), range(len(case.candidates)), task,
                           case.query.text, where=f"query {case.query.id!r}")
        assert isinstance(prompt.context, list)
        self.prompt = prompt
        self.context = model.prefill(prompt.context, blocks=prompt.blocks, mask=prompt.mask, positions=prompt.positions)

    def ndcg(self) -> Tables:
        return {"ndcg": ndcg_of(self._paid(self.prompt.spans, [1.0, -1.0]), self.case.gains)}

    def qrhead(self) -> Tables:
        tokens = [(t, t + 1) for start, stop in self.prompt.spans for t in range(start, stop)]
        scores = filtered(self._paid(tokens, [1.0, -1.0]), [stop - start for start, stop in self.prompt.spans])
        gained = scores[..., self.case.gains > 0].sum(axis=-1)
        return {"qrhead_ndcg": ndcg_of(scores, self.case.gains), "qrhead_score": gained}

    def core(self, temperature: float) -> Tables:
        paid = self._paid(self.prompt.spans, [1.0])
        return {"core_score": contrast_of(paid, self.case.positive, self.case.gains == 0, temperature)}

    def _paid(self, spans: Sequence[Span], weights: list[float]) -> NDArray[np.float64]:
        """By each head to each span, the suffixes weighted, [layers, heads, spans]."""
        rows = self.prompt.rows and self.prompt.rows[:len(weights)]
        paid = self.model.head_scores(self.context, self.prompt.suffixes[:len(weights)], spans, weights=weights,
                                      query_rows=rows, after=self.prompt.after)
        return paid.astype(np.float64)


def filtered(tokens: NDArray[np.float64], lengths: Sequence[int]) -> NDArray[np.float64]:
    """Each passage's sum without low outliers: ``tokens`` [..., tokens], of passages one after the other, to [...,
    passages]."""
    sums = []
    for start, stop in tiled(0, lengths):
        passage = tokens[..., start:stop]
        if stop - start > 1:
            floor = passage.mean(axis=-1) - DEVIATIONS * passage.std(axis=-1, ddof=1)
            passage = np.where(passage >= floor[..., None], passage, 0)
        sums.append(passage.sum(axis=-1))
    return np.stack(sums, axis=-1)


def ndcg_of(scores: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """nDCG@10 of each head's ranking: ``scores`` [..., candidates] to [...]."""
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :_CUT]
    discounts = 1 / np.log2(np.arange(2, order.shape[-1] + 2))
    best = np.sort(gains)[::-1][:len(discounts)] @ discounts
    found: NDArray[np.float64] = gains[order] @ discounts / best
    return found


def contrast_of(
    scores: NDArray[np.float64], positive: int, negative: NDArray[np.bool_], temperature: float,
) -> NDArray[np.float64]:
    """The positive's share in a softmax over it and the negatives: ``scores`` [..., candidates] to [...]."""
    scaled = scores / temperature
    own = scaled[..., positive]
    shares: NDArray[np.float64] = np.exp(own - np.logaddexp(own, np.logaddexp.reduce(scaled[..., negative], axis=-1)))
    return shares


def _head_set(lm: str, recipe: dict[str, Any], measured: Sequence[Tables], seed: int) -> HeadSet:
    """Means and 95 % intervals (:func:`mean_interval`) over the queries."""
    means, intervals = {}, {}
    for name in measured[0]:
        table = np.stack([one[name] for one in measured])
        interval = mean_interval(table, resamples=_RESAMPLES, seed=seed, bounds=_BOUNDS[name])
        means[name] = table.mean(axis=0).round(6).tolist()
        intervals[name] = np.stack(interval, axis=-1).round(6).tolist()
    return HeadSet(lm, weights_hash(resolve(lm)), recipe, means, intervals)
