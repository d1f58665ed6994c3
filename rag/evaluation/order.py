"""How much of a reranking is the order in which the candidates came?

A reranker that reads all candidates in one prompt tends to favour some places in it, and as the first stage put its
best candidates first, favouring places looks like finding what is relevant. So the same candidates are reranked best
first, best last and shuffled, and each arrangement is reported with its measures and with Kendall's tau between the
reranker's score and the place in the arrangement. Under ``shuffled`` the place says nothing of relevance: there a tau
other than 0 is the reranker's own taste.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dag.pipeline import Pipeline
from ..dag.plan import StageNode
from ..errors import ConfigError, EvaluationError, PipelineError
from ..nouns import Batch, Query, Ranking
from ..progress import progress_bar
from .beir import read_queries
from .runs import Qrels, Run, run_from_rankings
from .significance import Comparisons, Correction, compare, mean_interval
from .trec import read_qrels

Rerank = Callable[[Batch[Query], Batch[Ranking]], Batch[Ranking]]
Permutation = NDArray[np.int64]

ARRANGEMENTS: dict[str, Callable[[int, np.random.Generator], Permutation]] = {
    "best-first": lambda n, random: np.arange(n),
    "best-last": lambda n, random: np.arange(n)[::-1],
    "shuffled": lambda n, random: random.permutation(n),
}

_TOP = 10
_STEP = 8  # queries that are reranked as one batch
_RETRIEVED = 64  # queries that are retrieved as one batch


@dataclass(frozen=True, slots=True)
class OrderEffect:
    """What one arrangement did to the rankings.

    ``tau``: Kendall's tau-b between score and place, the mean over queries, with a 95 % bootstrap ``interval`` over
    them (one query says nothing: -1 to 1). Above 0 what comes later scores higher, below 0 what comes earlier.
    ``top_kept``: how many of the first ten hits under the first arrangement are among the first ten under this one, the
    mean over queries (all are, where there are no more than ten candidates).
    ``unchanged``: queries whose whole ranking is that of the first arrangement.
    """

    arrangement: str
    tau: float
    interval: tuple[float, float]
    top_kept: float
    unchanged: int


@dataclass(frozen=True, slots=True)
class OrderReport:
    """``comparisons`` has one row for each arrangement and measure, tested against the first arrangement (see
    ``compare``).

    All figures are over the ``queries`` that are judged and have at least two candidates; ``candidates`` is their mean
    number.
    """

    reranker: str
    queries: int
    candidates: float
    seed: int
    effects: list[OrderEffect]
    comparisons: Comparisons

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def order_sensitivity(
    rerank: Rerank, queries: Sequence[Query], rankings: Sequence[Ranking], qrels: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    seed: int = 0, *, reranker: str = "reranker", correction: Correction = "holm",
) -> OrderReport:
    """Rerank the candidates of each judged query in every arrangement, and compare.

    ``rerank`` is an opened stage's ``run``; ``rankings[i]`` are the candidates of ``queries[i]``, best first, and keep
    their scores when they are permuted. The shuffle depends on ``seed`` and the query's id alone. Raises
    ``EvaluationError`` when no judged query has two candidates, when the reranker does not give all its candidates
    back, and as ``compare`` does.
    """
    asked = [(q, r) for q, r in zip(queries, rankings, strict=True) if q.id in qrels and len(r) > 1]
    if len({query.id for query, _ in asked}) < len(asked):
        raise EvaluationError("two queries have one id", where=reranker, hint="give every query its own id")
    if not asked:
        raise EvaluationError(f"none of {len(queries)} queries has both judgments and at least two candidates",
                              where=reranker,
                              hint="check that queries, qrels and index belong together")
    outcomes = {}
    with progress_bar("reranking", len(asked) * len(ARRANGEMENTS), "queries") as advance:
        for name in ARRANGEMENTS:
            outcome = outcomes[name] = _Outcome({}, [], [])
            for first in range(0, len(asked), _STEP):
                some = asked[first:first + _STEP]
                _rerank_arranged(rerank, some, name, seed, reranker, outcome)
                advance(len(some), name)
    effects = [_effect(name, outcome, outcomes["best-first"], seed) for name, outcome in outcomes.items()]
    judged = {query.id: qrels[query.id] for query, _ in asked}
    rows = compare({name: outcome.run for name, outcome in outcomes.items()}, judged, measures, correction=correction,
                   seed=seed)
    return OrderReport(reranker, len(asked), float(np.mean([len(r) for _, r in asked])), seed, effects, rows)


def pipeline_order_sensitivity(
    pipeline: Pipeline, queries: str | Path, qrels: str | Path, *, reranker: str | None = None, k: int = 20,
    measures: Sequence[str] = ("nDCG@10",), seed: int = 0, correction: Correction = "holm",
) -> OrderReport:
    """:func:`order_sensitivity` of a pipeline's reranker: its stage ``reranker``, or the last one that reranks.

    ``queries`` is a JSON-lines file. The stages before the reranker run once a judged query, their best ``k`` hits are
    its candidates. Raises ``PipelineError`` or ``ConfigError`` for a pipeline without such a stage, or one that cannot
    be fed with queries alone.
    """
    name = _reranker(pipeline, reranker)
    stage: Any = pipeline.nodes[name].stage
    depth = getattr(stage, "depth", None)
    if isinstance(depth, int) and depth < k:
        raise ConfigError(f"{name!r} reads {depth} candidates only: which {depth} of {k} would depend on their order",
                          where=pipeline.name, hint=f"lower -k to {depth}, or raise the stage's depth")
    judgments = read_qrels(qrels)
    asked = [query for query in read_queries(queries) if query.id in judgments]
    if not asked:
        raise EvaluationError(f"no query of {queries} has judgments", where=str(qrels),
                              hint="do both files belong to one collection?")
    before, alone = _before(pipeline, name), Pipeline(pipeline.name)
    alone.output(reranked=alone.add(stage, alone.input(Query), alone.input(Ranking), name=name))
    with before, alone:
        asked, rankings = _candidates(before, asked, k)
        return order_sensitivity(lambda q, r: alone.run(q, r).reranked, asked, rankings, judgments, measures, seed,
                                 reranker=name,
                                 correction=correction)


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b between two sequences of equal length, in [-1, 1]; 0 where one of them is constant, which has no
    order to share.

    Tau-b counts pairs that are tied in either out of the denominator (Kendall 1945, "The treatment of ties in ranking
    problems").
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    untied = float(np.count_nonzero(dx)) * float(np.count_nonzero(dy))
    return float((dx * dy).sum() / np.sqrt(untied)) if untied else 0.0


# -- one arrangement ----------------------------------------------------------------------


@dataclass(slots=True)
class _Outcome:
    """An arrangement's run by document, and for each query tau and the places (in the candidates as they came) in the
    new order."""

    run: Run
    taus: list[float]
    orders: list[Permutation]


def _rerank_arranged(
    rerank: Rerank, asked: Sequence[tuple[Query, Ranking]], arrangement: str, seed: int, reranker: str,
    outcome: _Outcome,
) -> None:
    """Rerank some queries' candidates in one arrangement and add what came of it to ``outcome``."""
    orders = [ARRANGEMENTS[arrangement](len(ranking), _random(seed, query)) for query, ranking in asked]
    arranged = [ranking.take(order) for (_, ranking), order in zip(asked, orders, strict=True)]
    reranked = rerank(Batch(query for query, _ in asked), Batch(arranged))
    for (query, _), given, order, got in zip(asked, arranged, orders, reranked, strict=True):
        place = _places(given, got, f"{reranker}, query {query.id!r}")
        outcome.taus.append(kendall_tau(place, got.scores))
        outcome.orders.append(order[place])
    outcome.run |= run_from_rankings([query for query, _ in asked], reranked)


def _random(seed: int, query: Query) -> np.random.Generator:
    name = hashlib.blake2b(query.id.encode("utf-8", "replace"), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(name, "little")])


def _places(given: Ranking, got: Ranking, where: str) -> Permutation:
    """For each hit of ``got`` its place in ``given``; the same passage twice is taken in order."""
    from_given, from_got = np.argsort(given.rows, kind="stable"), np.argsort(got.rows, kind="stable")
    if not np.array_equal(given.rows[from_given], got.rows[from_got]):
        raise EvaluationError(f"the reranker gave {len(got)} passages for {len(given)} candidates, or other ones",
                              where=where,
                              hint="give it at most as many candidates as it reads: what it drops may depend on their "
                                   "order")
    places = np.empty(len(got), dtype=np.int64)
    places[from_got] = from_given
    return places


def _effect(name: str, outcome: _Outcome, first: _Outcome, seed: int) -> OrderEffect:
    pairs = list(zip(first.orders, outcome.orders, strict=True))
    kept = [len(np.intersect1d(a[:_TOP], b[:_TOP])) for a, b in pairs]
    low, high = mean_interval(outcome.taus, seed=seed, bounds=(-1, 1))
    return OrderEffect(name, float(np.mean(outcome.taus)), (float(low), float(high)), float(np.mean(kept)),
                       sum(np.array_equal(a, b) for a, b in pairs))


# -- the pipeline around the reranker -----------------------------------------------------


def _reranker(pipeline: Pipeline, name: str | None) -> str:
    rerankers = [node for node, held in pipeline.nodes.items() if _reranks(held)]
    if not rerankers:
        raise PipelineError("the pipeline has no reranker: no stage takes queries and rankings and gives rankings",
                            where=pipeline.name,
                            hint=f"add one, say CrossEncoder or AttentionReranker; its stages are "
                                 f"{', '.join(pipeline.nodes)}")
    if name is not None and name not in rerankers:
        raise ConfigError(f"{name!r} is no reranker of this pipeline", where=pipeline.name,
                          hint=f"choose {' or '.join(rerankers)}")
    return name or rerankers[-1]


def _reranks(node: StageNode) -> bool:
    return [port.type for _, port in node.sources] == [Query, Ranking] and node.stage.ports().outputs[0].type is Ranking


def _before(pipeline: Pipeline, reranker: str) -> Pipeline:
    """What feeds the reranker: its rankings, and its queries where another stage rewrites them."""
    (queries, _), (rankings, _) = pipeline.nodes[reranker].sources
    if list(pipeline.inputs.values()) != [Query] or rankings.node not in pipeline.nodes:
        raise ConfigError("the pipeline must take queries and nothing else", where=pipeline.name,
                          hint=f"its inputs are {', '.join(f'{n}: {t.__name__}' for n, t in pipeline.inputs.items())}")
    rewritten = {"queries": queries} if queries.node in pipeline.nodes else {}
    plan = replace(pipeline.plan(), outputs={"rankings": rankings, **rewritten})
    nodes = {name: plan.nodes[name] for name in plan.needed()}
    return Pipeline(pipeline.name, pipeline.cache, plan=replace(plan, nodes=nodes))


def _candidates(before: Pipeline, asked: Sequence[Query], k: int) -> tuple[list[Query], list[Ranking]]:
    """The queries as the reranker gets them, and their best ``k`` hits."""
    queries: list[Query] = []
    rankings: list[Ranking] = []
    with progress_bar("retrieving", len(asked), "queries") as advance:
        for first in range(0, len(asked), _RETRIEVED):
            some = asked[first:first + _RETRIEVED]
            found = before.run(some)
            queries += found.get("queries", some)
            rankings += [ranking.top(k) for ranking in found["rankings"]]
            advance(len(some), "")
    return queries, rankings
