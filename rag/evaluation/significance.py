"""Is one run better than another, or lucky? A paired randomisation test over queries.

Smucker, Allan and Carterette 2007, "A comparison of statistical significance tests for information retrieval evaluation": under the
null hypothesis the two systems' values for a query could be swapped, which flips the sign of their difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError
from .metrics import evaluate
from .runs import Qrels, Run

_CHUNK = 1 << 20  # sign flips held at once
Signs = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class TestResult:
    """``difference`` is mean(b) - mean(a); ``p`` is two-sided; ``exact`` when every assignment of signs was counted.

    ``identical`` means that no query differs: there was nothing to test, and ``p`` is 1.
    """

    __test__ = False  # pytest: this is no test class

    difference: float
    p: float
    identical: bool
    exact: bool


def randomisation_test(a: Sequence[float], b: Sequence[float], rounds: int = 10_000, seed: int = 0) -> TestResult:
    """Two-sided paired sign-flip test of mean(b) - mean(a); ``a[i]`` and ``b[i]`` belong to the same query.

    Queries without a difference change no statistic and are left aside. When the others have at most ``rounds`` sign assignments,
    all are counted and p is exact; else ``rounds`` random ones are drawn and p = (extreme + 1) / (rounds + 1), which is never 0.
    Deterministic under ``seed``. Raises ``EvaluationError`` for unequal lengths, no values, or values that are not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise EvaluationError(f"a paired test needs one value a query of each run, got {first.shape} and {second.shape}")
    if rounds < 1 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EvaluationError("a paired test needs finite values and at least one round")
    differences = second - first
    flippable = differences[differences != 0]
    mean = float(differences.mean())
    if not len(flippable):
        return TestResult(mean, 1.0, identical=True, exact=True)
    exact = len(flippable) < 63 and 2 ** len(flippable) <= rounds
    signs = _every_sign(len(flippable)) if exact else _random_signs(len(flippable), rounds, seed)
    # a sum that equals the observed one must count though its terms were added in another order
    bar = abs(float(flippable.sum())) - 1e-12 * float(np.abs(flippable).sum())
    extreme = sum(int(np.count_nonzero(np.abs(chunk @ flippable) >= bar)) for chunk in signs)
    p = extreme / 2 ** len(flippable) if exact else (extreme + 1) / (rounds + 1)
    return TestResult(mean, p, identical=False, exact=exact)


def bootstrap_interval(
    a: Sequence[float], b: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of mean(b) - mean(a), paired: whole queries are drawn with replacement.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Deterministic under ``seed``. Raises ``EvaluationError``
    for unequal lengths or no values.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise EvaluationError(f"a paired interval needs one value a query of each run, got {first.shape} and {second.shape}")
    n = len(first)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.percentile(counts @ (second - first) / n, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _every_sign(n: int) -> Iterator[Signs]:
    """All 2^n rows of signs [rows, n], in chunks."""
    rows = max(1, _CHUNK // n)
    for start in range(0, 2**n, rows):
        numbers = np.arange(start, min(start + rows, 2**n), dtype=np.int64)
        yield (((numbers[:, None] >> np.arange(n)) & 1) * 2 - 1).astype(np.int8)


def _random_signs(n: int, rounds: int, seed: int) -> Iterator[Signs]:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, rounds, rows):
        yield generator.integers(0, 2, size=(min(rows, rounds - start), n), dtype=np.int8) * np.int8(2) - np.int8(1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run under one metric beside the first run; ``test`` is None for the first run itself.

    ``wins``, ``ties`` and ``losses`` count the queries on which this run is above, at and below the first.
    """

    run: str
    metric: str
    mean: float
    wins: int = 0
    ties: int = 0
    losses: int = 0
    test: TestResult | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    runs: Mapping[str, Run], qrels: Qrels, metrics: Sequence[str] = ("nDCG@10",), *, rounds: int = 10_000, seed: int = 0,
) -> list[Comparison]:
    """Every run under every metric, tested against the first run: rows run by run, in the order given.

    The p values are not corrected for the number of comparisons. Raises ``EvaluationError`` as :func:`.metrics.evaluate` does.
    """
    scores = {name: evaluate(run, qrels, metrics) for name, run in runs.items()}
    if not scores:
        raise EvaluationError("there is no run to compare")
    baseline, *_ = scores
    rows: list[Comparison] = []
    for name, results in scores.items():
        for metric, result in results.items():
            if name == baseline:
                rows.append(Comparison(name, metric, result.mean))
                continue
            ours = np.array(list(result.per_query.values()))
            theirs = np.array(list(scores[baseline][metric].per_query.values()))
            test = randomisation_test(theirs.tolist(), ours.tolist(), rounds, seed)
            wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
            rows.append(Comparison(name, metric, result.mean, wins, len(ours) - wins - losses, losses, test))
    return rows
