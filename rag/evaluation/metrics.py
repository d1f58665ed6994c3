"""Ranking metrics through ir-measures (MacAvaney et al. 2022, arXiv:2111.13466), which runs trec_eval's own code."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EvaluationError
from ..extras import need
from .runs import Qrels, Run, expect_judged, untied

_DEEPEST = 2**31 - 1  # trec_eval's numbers are C's


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric of one run: its mean over the judged queries, and its value for each of them (in the qrels' order)."""

    mean: float
    per_query: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "per_query": dict(self.per_query)}


def evaluate(run: Run, qrels: Qrels, metrics: Sequence[str] = ("nDCG@10",)) -> dict[str, MetricResult]:
    """Score ``run``; the result has one entry a metric, under the name that was given.

    Names are ir-measures': ``nDCG@10``, ``AP`` (or ``MAP``), ``RR@10`` (or ``MRR@10``), ``R@100``, ``P@10``,
    ``AP(rel=2)``. Every query of ``qrels`` counts: one that the run lacks scores 0. Queries without judgments are left
    out. Equal scores rank in the run's own order (see :mod:`.runs`); a run that :func:`.trec.read_run` read has
    trec_eval's. Raises ``EvaluationError`` for an unknown metric (with the nearest names), empty qrels, or a run and
    qrels that share no query.
    """
    need("ir_measures", where="evaluate")
    import ir_measures

    if not metrics or isinstance(metrics, str) or not all(isinstance(name, str) for name in metrics):
        raise EvaluationError(f"metrics are a list of names, at least one, not {metrics!r:.80}",
                              hint='["nDCG@10", "AP"]')
    expect_judged(qrels, "the judgments", (int, np.integer))
    expect_judged(run, "the run", (int, float, np.number))
    measures = {name: _measure(name) for name in metrics}
    if not qrels:
        raise EvaluationError("there are no judgments", hint="check the qrels file")
    judged = {query: documents for query, documents in run.items() if query in qrels}
    if run and not judged:
        raise EvaluationError("the run and the qrels share no query", hint="are these the qrels of this collection?",
                              where=f"run has {next(iter(run))!r}, qrels have {next(iter(qrels))!r}")
    try:  # an evaluator yields each measure's default for a query that the run lacks
        result = ir_measures.DefaultPipeline.evaluator(list(measures.values()), qrels).calc(untied(judged))
    except subprocess.CalledProcessError as error:  # some measures are other programs: ERR is gdeval.pl
        raise EvaluationError(f"an evaluator of {', '.join(metrics)} failed: {Path(error.cmd[0]).name}, status "
                              f"{error.returncode}",
                              hint="ERR's takes whole numbers as query ids only; its own message is above") from None
    values: dict[Any, dict[str, float]] = {measure: {} for measure in measures.values()}
    for metric in result.per_query:
        values[metric.measure][metric.query_id] = float(metric.value)
    return {
        name: MetricResult(float(result.aggregated[measure]), {query: values[measure][query] for query in qrels})
        for name, measure in measures.items()
    }


def _measure(name: str) -> Any:
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name)
    except NameError:
        raise EvaluationError(f"there is no metric {name!r}", hint=_nearest(name)) from None
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"the metric {name!r} cannot be read: {error}", hint=_nearest(name)) from None
    cutoff = measure.params.get("cutoff", 1)
    try:
        supported = ir_measures.DefaultPipeline.supports(measure)
    except AssertionError:  # ir-measures' word for a required parameter that is missing or of a wrong type
        raise EvaluationError(f"the metric {name!r} lacks a cutoff or has a wrong one",
                              hint=f"write {measure.NAME}@10") from None
    if not isinstance(cutoff, int) or not 1 <= cutoff <= _DEEPEST:
        raise EvaluationError(f"the metric {name!r} has a cutoff below 1 or above {_DEEPEST:,}",
                              hint=f"write {measure.NAME}@10")
    if not supported:
        raise EvaluationError(f"the metric {name!r} cannot be computed with what is installed",
                              hint="see ir-measures' documentation")
    return measure


def _nearest(name: str) -> str:
    """The nearest metric names, whatever their case, with the cutoff that was asked for."""
    from ir_measures.measures import registry

    known = {alias.lower(): measure.NAME for alias, measure in registry.items()}
    wanted, at, cutoff = name.strip().partition("@")
    wanted = wanted.lower().partition("_cut")[0]
    near = [wanted] if wanted in known else get_close_matches(wanted, known)
    if not near:
        return "known: nDCG@10, AP, RR@10, R@100, P@10, Success@5, ..."
    return f"did you mean {' or '.join(dict.fromkeys(known[n] + at + cutoff for n in near))}?"
