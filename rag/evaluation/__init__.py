"""Evaluation: runs and judgments in TREC and BEIR form, ranking metrics, answer metrics, and a paired significance
test.

Lives here: ``runs`` (the types ``Run`` and ``Qrels``, rankings to runs), ``trec`` (files in and out), ``beir`` (queries
and BEIR folders), ``metrics`` (nDCG@10 and friends, through ir-measures), ``answers`` (exact match, token F1),
``significance`` (a paired test, Holm's correction, bootstrap intervals), ``order`` (what a reranker's result owes to
the order of its candidates).
"""

from .answers import exact_match, token_f1
from .beir import BeirFolder, read_beir, read_queries
from .metrics import MetricResult, evaluate
from .order import OrderReport, kendall_tau, order_sensitivity
from .runs import Qrels, Run, run_from_rankings
from .significance import (
    Comparison,
    Comparisons,
    TestResult,
    bootstrap_interval,
    compare,
    holm,
    mean_interval,
    randomisation_test,
)
from .trec import read_qrels, read_run, write_qrels, write_run

__all__ = [
    "BeirFolder", "Comparison", "Comparisons", "MetricResult", "OrderReport", "Qrels", "Run", "TestResult",
    "bootstrap_interval",
    "compare", "evaluate", "exact_match", "holm", "kendall_tau", "mean_interval", "order_sensitivity",
    "randomisation_test", "read_beir", "read_qrels", "read_queries", "read_run", "run_from_rankings", "token_f1",
    "write_qrels", "write_run",
]
