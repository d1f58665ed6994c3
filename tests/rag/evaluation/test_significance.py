"""Intervals and corrections: against enumeration, against closed testing, and by how often they hold what they
promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from regard.rag.app.cli import app
from regard.rag.app.terminal import console
from regard.rag.app.terminal.scores import show_comparison
from regard.rag.dag.trace import StageTrace, Trace
from regard.rag.errors import EvaluationError
from regard.rag.evaluation import (
    Comparison,
    TestResult,
    bootstrap_interval,
    compare,
    holm,
    mean_interval,
    randomisation_test,
    write_qrels,
    write_run,
)
from typer.testing import CliRunner

Sampler = Callable[[tuple[int, ...]], NDArray[np.float64]]


# -- intervals ------------------------------------------------------------------------------


def enumerated(values: list[float], level: float) -> tuple[float, float]:
    """The symmetric studentised interval from all n^n resamples, with standard errors as textbooks write them."""
    n = len(values)
    samples = np.array(list(product(values, repeat=n)))
    errors, own = np.std(samples, ddof=1, axis=1) / np.sqrt(n), np.std(values, ddof=1) / np.sqrt(n)
    ratios = np.sort(np.abs(samples.mean(axis=1) - np.mean(values)) / np.maximum(errors, own / 10))
    half = ratios[int(np.ceil(level * (len(ratios) - 1)))] * own
    return np.mean(values) - half, np.mean(values) + half


@pytest.mark.parametrize("values", [[0.1, -0.2, 0.4, 0.35, 0.0], [0.0, 0.0, 0.0, 0.5, 0.25], [1.0, 0.0, -1.0, 0.0]])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_all_resamples(values, level):
    ours = mean_interval(values, level=level, resamples=200_000)
    assert np.array(ours) == pytest.approx(enumerated(values, level), abs=0.02)


def test_of_many_queries_it_is_students_and_scipys_bootstrap():
    from scipy.stats import bootstrap, t

    values = np.random.default_rng(0).normal(0.1, 0.3, 400)
    low, high = mean_interval(values)
    assert (low, high) == pytest.approx(t.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20), abs=0.001)
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=3000,
                       rng=np.random.default_rng(1)).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.003)
    ninety = mean_interval(values, level=0.9)
    assert low < ninety[0] < ninety[1] < high


@given(st.lists(st.integers(-8, 8), min_size=2, max_size=12), st.integers(-3, 3), st.sampled_from([0.5, 2.0, -4.0]))
def test_it_moves_and_stretches_with_the_values(numbers, shift, scale):
    values = np.array(numbers) / 8
    low, high = mean_interval(values, resamples=200)
    assert low <= values.mean() <= high
    moved = mean_interval(values * scale + shift, resamples=200)
    assert sorted([low * scale + shift, high * scale + shift]) == pytest.approx(moved)


def test_every_column_of_a_table_has_the_interval_it_has_alone_and_repeats(monkeypatch):
    table = np.random.default_rng(0).normal(size=(9, 3, 2))
    table[:, 1, 1] = 0.1
    low, high = mean_interval(table, resamples=300, seed=4)
    assert low.shape == high.shape == (3, 2)
    for place in np.ndindex(3, 2):
        assert (low[place], high[place]) == pytest.approx(mean_interval(table[:, *place], resamples=300, seed=4))
    assert low[1, 1] == high[1, 1] == pytest.approx(0.1)
    assert (low[0, 0], high[0, 0]) != mean_interval(table[:, 0, 0], resamples=300, seed=5)
    # seven resamples at a time, and then six: the same ones
    monkeypatch.setattr("regard.rag.evaluation.significance._CHUNK", 70)
    assert np.array_equal(mean_interval(table, resamples=300, seed=4), (low, high))


def test_what_is_taken_where_nothing_is_said():
    random = np.random.default_rng(1)
    a, b = random.random(20), random.random(20)
    assert mean_interval(b - a) == mean_interval(b - a, level=0.95, resamples=10_000, seed=0)
    assert bootstrap_interval(a, b) == mean_interval(b - a) != bootstrap_interval(a, b, seed=3) == mean_interval(b - a,
                                                                                                                 seed=3)
    single = b.astype(np.float32)
    # reckoned in double precision whatever comes
    assert mean_interval(single) == mean_interval(single.astype(np.float64))
    assert randomisation_test(a, b) == randomisation_test(a, b, rounds=10_000, seed=0)


def test_a_paired_interval_is_that_of_the_differences():
    a, b = [0.1, 0.5, 0.9, 0.3], [0.4, 0.5, 1.0, 0.7]
    assert bootstrap_interval(a, b, seed=3, level=0.9) == mean_interval(np.subtract(b, a), seed=3, level=0.9)
    assert bootstrap_interval(a, b, bounds=(-0.1, 0.25)) == (-0.1, 0.25)


def test_data_without_spread():
    assert bootstrap_interval([0.1] * 30, [0.1] * 30) == (0, 0)
    assert mean_interval([0.1] * 30) == (pytest.approx(0.1), pytest.approx(0.1))
    assert mean_interval([0.3]) == (-np.inf, np.inf)
    assert mean_interval([0.3], bounds=(-1, 1)) == (-1, 1)
    low, high = mean_interval([0.0] * 19 + [0.5])  # a third of the resamples are zeros alone
    assert -1 < low < 0
    assert 0.1 < high < 1


@pytest.mark.parametrize("values", [[], 0.5, [0.1, float("nan")], [0.1, float("inf")], [[]]])
def test_no_interval_without_finite_values(values):
    if np.shape(values) == (1, 0):  # a table without columns
        assert mean_interval(values)[0].shape == (0,)
        return
    with pytest.raises(EvaluationError, match="finite values"):
        mean_interval(values)


def test_settings_and_pairs_that_make_no_interval():
    for setting in ({"level": 0.0}, {"level": 1.0}, {"level": 95}, {"resamples": 0}):
        with pytest.raises(EvaluationError, match="level between 0 and 1"):
            mean_interval([0.1, 0.2], **setting)
    nan, inf = float("nan"), float("inf")
    for a, b in (([0.1], [0.1, 0.2]), ([[0.1]], [[0.2]]), ([], []), ([0.1, 0.2], [nan, 0.1]), ([inf, 0.1], [inf, 0.2]),
                 ([0.1], [inf])):
        with pytest.raises(EvaluationError):
            bootstrap_interval(a, b)
        with pytest.raises(EvaluationError):
            randomisation_test(a, b)


GAINS = np.append(1 / np.log2(np.arange(2, 12)), 0)  # nDCG@10 of a query with one relevant document, by its rank


def one_relevant(random: np.random.Generator) -> Sampler:
    """nDCG@10 before and after a change that moves the one relevant document of every other query by up to three
    ranks."""
    def sample(shape):
        before = random.choice(11, shape, p=[.35, .12, .08, .06, .05, .04, .03, .03, .02, .02, .2])
        moved = random.choice(np.arange(-3, 4), shape, p=[.05, .08, .1, .5, .12, .1, .05])
        return GAINS[np.clip(before - moved, 0, 10)] - GAINS[before]
    return sample


def mostly_zero(share: float, of: Callable[[np.random.Generator,
                                            tuple[int, ...]], NDArray]) -> Callable[[np.random.Generator], Sampler]:
    return lambda random: lambda shape: np.where(random.random(shape) < share, 0.0, of(random, shape))


DIFFERENCES: dict[str, Callable[[np.random.Generator], Sampler]] = {
    "normal": lambda random: lambda shape: random.normal(0.03, 0.2, shape),
    "60 % zeros": mostly_zero(0.6, lambda random, shape: random.normal(0.05, 0.25, shape)),
    "80 % zeros": mostly_zero(0.8, lambda random, shape: random.normal(0.05, 0.25, shape)),
    "60 % zeros, skewed": mostly_zero(0.6, lambda random, shape: random.beta(1, 4, shape)),
    "80 % zeros, skewed": mostly_zero(0.8, lambda random, shape: random.beta(1, 3, shape)),
    "one relevant document": one_relevant,
    "exact match": lambda random: lambda shape: random.choice([-1.0, 0.0, 1.0], shape, p=[.08, .72, .2]),
}


@pytest.mark.parametrize("n", [20, *(pytest.param(n, marks=pytest.mark.slow) for n in (50, 100))])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_95_per_cent_intervals_cover_95_per_cent(name, n):
    """3,000 experiments each: the standard error of a coverage of .95 is .004. The percentile interval covers .83 to
    .93 at n = 20."""
    draw = DIFFERENCES[name](np.random.default_rng(n))
    truth = draw((1_000_000,)).mean()
    low, high = mean_interval(draw((n, 3000)), resamples=1000, bounds=(-1, 1))
    covered = float(np.mean((low <= truth) & (truth <= high)))
    assert 0.94 <= covered <= 0.99


# -- the paired test --------------------------------------------------------------------------


def test_the_sampled_p_counts_the_observed_signs_too():
    """p = (extreme + 1) / (rounds + 1): never 0, and one of the rounds + 1 values that such a test can have."""
    values = np.random.default_rng(2).normal(0.04, 0.2, 40)
    p = randomisation_test(np.zeros(40), values, rounds=999).p
    assert 0.1 < p < 0.9
    assert p * 1000 == pytest.approx(round(p * 1000), abs=1e-9)
    signs = np.random.default_rng(0).integers(0, 2, size=(999, 40), dtype=np.int8) * 2.0 - 1
    assert p == (np.count_nonzero(np.abs(signs @ values) >= abs(values.sum())) + 1) / 1000
    assert randomisation_test(np.zeros(40), np.ones(40), rounds=999).p == 1 / 1000
    assert randomisation_test(np.zeros(40), np.ones(40), rounds=1).p == 1 / 2


def test_a_few_signs_at_a_time_are_all_of_them(monkeypatch):
    values = np.random.default_rng(2).normal(0.04, 0.2, 13)
    zeros = np.zeros(13)
    exact, sampled = randomisation_test(zeros, values), randomisation_test(zeros, values, rounds=8000)
    monkeypatch.setattr("regard.rag.evaluation.significance._CHUNK", 130)
    assert randomisation_test(zeros, values) == exact
    few = randomisation_test(zeros, values, rounds=8000)
    assert (exact.exact, few.exact) == (True, False)
    assert few.p * 8001 == pytest.approx(round(few.p * 8001), abs=1e-6)
    assert few.p == pytest.approx(sampled.p, abs=0.03)
    # fewer than one row of signs: a row at a time all the same
    monkeypatch.setattr("regard.rag.evaluation.significance._CHUNK", 1)
    assert randomisation_test(zeros[:8], values[:8], rounds=256).exact
    assert randomisation_test(zeros[:8], np.ones(8), rounds=256).p == 2 / 256
    assert randomisation_test(zeros[:8], np.ones(8), rounds=255).exact is False


def test_p_depends_on_no_unit_and_takes_right_and_wrong():
    values = np.array([0.3, -0.1, 0.2, 0.1, 0.4, 0.05])
    for unit in (1e-9, 1.0, 1e9):
        assert randomisation_test(values * 0, values * unit).p == randomisation_test(values * 0, values).p == 8 / 64
    right, wrong = [True] * 6, [False] * 6  # exact match, say
    assert randomisation_test(wrong, right) == TestResult(1.0, 2 / 64, identical=False, exact=True)
    assert bootstrap_interval(wrong, right) == (1, 1)
    assert randomisation_test(right, right) == TestResult(0.0, 1.0, identical=True, exact=True)
    with pytest.raises(EvaluationError, match="at least one round"):
        randomisation_test(wrong, right, rounds=0)


# -- corrections ----------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.04, 0.05, 0.3, 1.0]), max_size=6))
def test_holm_is_closed_testing_with_bonferronis_tests(p):
    """A hypothesis falls when every set of hypotheses that holds it does, each tested by Bonferroni (Marcus, Peritz and
    Gabriel 1976)."""
    every = [chosen for size in range(1, len(p) + 1) for chosen in combinations(range(len(p)), size)]
    closed = [max(min(1.0, len(chosen) * min(p[j] for j in chosen)) for chosen in every if i in chosen)
              for i in range(len(p))]
    assert holm(p) == pytest.approx(closed)


QRELS = {f"q{i}": {"a": 1} for i in range(7)}
FIRST = {q: {"b": 2.0, "a": 1.0} for q in QRELS}
BETTER = {q: {"a": 2.0, "b": 1.0} for q in QRELS}
MIXED = {q: run[q] for i, q in enumerate(QRELS) for run in ((BETTER, FIRST)[i > 5],)}  # better for six queries of seven
RUNS = {"first": FIRST, "better": BETTER, "mixed": MIXED, "same": FIRST}


def test_p_is_corrected_over_every_test_of_the_table():
    rows = compare(RUNS, QRELS, ["nDCG@10", "RR"])
    raw = [row.test.p for row in rows if row.test]
    assert raw == [2 / 2**7] * 2 + [2 / 2**6] * 2 + [1.0] * 2
    assert [row.p_adjusted for row in rows] == [None, None, *holm(raw)]
    assert [row.p_adjusted for row in rows[2:4]] == [6 * 2 / 2**7] * 2  # .094: no longer below .05
    assert [(row.wins, row.ties, row.losses) for row in rows[::2]] == [(0, 0, 0), (7, 0, 0), (6, 1, 0), (0, 7, 0)]
    as_they_are = compare(RUNS, QRELS, ["nDCG@10", "RR"], correction="none")
    assert [row.p_adjusted for row in as_they_are] == [None, None, *raw]
    assert {row.correction for row in as_they_are} == {"none"}
    with pytest.raises(EvaluationError, match="no correction 'bonferroni'"):
        compare(RUNS, QRELS, correction="bonferroni")


# -- what the table prints -------------------------------------------------------------------


def shown(rows: list[Comparison]) -> str:
    with console.capture() as captured:
        show_comparison(rows)
    return " ".join(captured.get().split())


def row(name: str, p: float, adjusted: float, correction: str = "holm") -> Comparison:
    test = TestResult(0.1, p, identical=p == 1, exact=False)
    return Comparison(name, "nDCG@10", 0.5, 3, 2, 1, test, adjusted, correction)


def test_a_star_stands_for_corrected_p_and_the_caption_says_so(monkeypatch):
    monkeypatch.setattr(console, "width", 160)
    base = Comparison("first", "nDCG@10", 0.4)
    text = shown([base, row("a", 0.01, 0.03), row("b", 0.04, 0.08), row("c", 1.0, 1.0)])
    assert "Holm-corrected over 3 comparisons" in text
    assert "p, Holm" in text
    assert "0.0300 *" in text
    assert "0.0800" in text
    assert text.count("*") == 2  # the caption's and one row's
    assert "identical" in text
    alone = shown([base, row("a", 0.04, 0.04)])
    assert "Holm" not in alone
    assert "0.0400 *" in alone
    bare = shown([replace(base, correction="none"), row("a", 0.04, 0.04, "none"), row("b", 0.5, 0.5, "none")])
    assert "not corrected for 2 comparisons" in bare
    assert "p, Holm" not in bare
    assert shown([base])


def test_the_command_prints_both(tmp_path: Path):
    write_qrels(QRELS, tmp_path / "qrels.tsv")
    for name, run in RUNS.items():
        write_run(run, tmp_path / f"{name}.run")
    command = ["eval", *(str(tmp_path / f"{name}.run") for name in RUNS), "--qrels", str(tmp_path / "qrels.tsv"), "-m",
               "nDCG@10"]

    def output(*more: str) -> str:
        result = CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    rows = json.loads(output("--json"))
    assert [(row["run"], row["p_adjusted"], row["correction"]) for row in rows] == [
        ("first", None, "holm"), ("better", 3 / 2**6, "holm"), ("mixed", 2 * 2 / 2**6, "holm"), ("same", 1.0, "holm")]
    assert rows[1]["test"]["p"] == 1 / 2**6
    assert "Holm-corrected over 3" in " ".join(output().split())
    assert "not corrected for 3" in " ".join(output("--correction", "none").split())


def test_comparisons_and_a_trace_become_data_frames() -> None:
    rows = compare(RUNS, QRELS, ["nDCG@10", "RR"])
    frame = rows.to_pandas()
    assert frame["run"].tolist() == [row.run for row in rows]
    assert frame["p_adjusted"].tolist()[2:] == [row.p_adjusted for row in rows][2:]
    assert frame["p"].isna().tolist() == [row.test is None for row in rows]
    assert frame["difference"].tolist()[2:] == [row.test.difference for row in rows if row.test]
    trace = Trace([StageTrace("bm25", "BM25", queries=2, seconds=0.5), StageTrace("fuse", "Fuse", notes={"a": 1})], 1.0)
    assert trace.to_pandas()[["stage", "queries", "seconds"]].to_numpy().tolist() == [["bm25", 2, 0.5], ["fuse", 0, 0]]
    assert trace.to_pandas()["notes"].tolist() == [{}, {"a": 1}]
    assert len(Trace().to_pandas()) == 0
