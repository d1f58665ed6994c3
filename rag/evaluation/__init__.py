"""Evaluation: runs and judgments in TREC and BEIR form, ranking metrics, answer metrics, and a paired significance test.

Lives here: ``runs`` (the types ``Run`` and ``Qrels``, rankings to runs), ``trec`` (files in and out), ``beir`` (queries and BEIR
folders), ``metrics`` (nDCG@10 and friends, through ir-measures), ``answers`` (exact match, token F1), ``significance`` (a paired
test).
"""

from .answers import exact_match, token_f1
from .beir import BeirFolder, read_beir, read_queries
from .metrics import MetricResult, evaluate
from .runs import Qrels, Run, run_from_rankings
from .significance import Comparison, TestResult, compare, randomisation_test
from .trec import read_qrels, read_run, write_qrels, write_run

__all__ = [
    "BeirFolder", "Comparison", "MetricResult", "Qrels", "Run", "TestResult", "compare", "evaluate", "exact_match",
    "randomisation_test",
    "read_beir", "read_qrels", "read_queries", "read_run", "run_from_rankings", "token_f1", "write_qrels", "write_run",
]
