"""Metrics, answer scores and the significance test, against known values and other implementations."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.rag.errors import EvaluationError
from regard.rag.evaluation import (
    compare,
    evaluate,
    exact_match,
    randomisation_test,
    read_qrels,
    read_run,
    token_f1,
    write_run,
)

QRELS = {"q1": {"a": 1, "b": 0, "c": 2}, "q2": {"a": 1}}


@pytest.mark.data
def test_bm25_on_dl19_has_its_known_ndcg(shared_data):
    folder = shared_data / "msmarco-dl19"
    result = evaluate(read_run(folder / "bm25.run"), read_qrels(folder / "qrels" / "test.tsv"), ["nDCG@10"])["nDCG@10"]
    assert result.mean == pytest.approx(0.5058, abs=5e-5)
    assert len(result.per_query) == 43


def test_values_worked_out_by_hand():
    run = {"q1": {"b": 3.0, "c": 2.0, "a": 1.0}}
    result = evaluate(run, QRELS, ["nDCG@3", "MAP", "MRR@10", "P@2", "R@2", "AP(rel=2)"])
    ideal = 2 + 1 / np.log2(3)
    assert result["nDCG@3"].per_query["q1"] == pytest.approx((2 / np.log2(3) + 1 / 2) / ideal)
    assert result["MAP"].per_query == {"q1": pytest.approx((1 / 2 + 2 / 3) / 2), "q2": 0.0}
    assert result["MRR@10"].mean == pytest.approx(0.25)
    assert result["P@2"].per_query["q1"] == pytest.approx(0.5)
    assert result["R@2"].per_query["q1"] == pytest.approx(0.5)
    assert result["AP(rel=2)"].per_query["q1"] == pytest.approx(0.5)


@pytest.mark.parametrize("run", [{}, {"q1": {}}, {"q1": {"b": 1.0}, "other": {"a": 1.0}}])
def test_a_query_that_the_run_lacks_counts_as_zero(run):
    for metric in ("nDCG@10", "RR@10", "AP"):
        result = evaluate(run, QRELS, [metric])[metric]
        assert result.mean == 0
        assert list(result.per_query) == ["q1", "q2"]


@pytest.mark.skipif(not shutil.which("perl"), reason="ERR is computed by TREC's gdeval.pl")
def test_measures_that_another_program_computes():
    numbered = {"1": QRELS["q1"], "2": QRELS["q2"]}
    result = evaluate({"1": {}, "2": {"a": 1.0}}, numbered, ["ERR@10"])["ERR@10"]
    assert result.to_dict() == {"mean": pytest.approx(1 / 32), "per_query": {"1": 0.0, "2": pytest.approx(1 / 16)}}
    with pytest.raises(EvaluationError, match=r"ERR@10 failed: perl, status \d+"):
        evaluate({"q2": {"a": 1.0}}, QRELS, ["ERR@10"])


@pytest.mark.parametrize("metric", ["nDCG@1", "RR", "RR@1", "P@1"])
def test_ties_rank_in_the_runs_order_before_and_after_the_disk(tmp_path, metric):
    for run, value in (({"q2": {"a": 1.0, "z": 1.0}}, 1.0),
                       ({"q2": {"z": 1.0, "a": 1.0 - 1e-12}}, 0.5 if metric == "RR" else 0.0)):
        write_run(run, tmp_path / "a.run")
        for version in (run, read_run(tmp_path / "a.run")):
            assert evaluate(version, QRELS, [metric])[metric].per_query["q2"] == value


@pytest.mark.parametrize(("name", "hint"), [
    ("ndcg@10", "nDCG@10?"), ("ndcg_cut_10", "nDCG"), ("Recal@5", "R@5"), ("P", "P@10"), ("R@0", "R@10"),
    ("zzz", "known"),
    ("nDCG@x", "nDCG"), ("", "known"), ("nDGC@5", "did you mean nDCG@5 or alpha_nDCG@5"),
])
def test_an_unknown_metric_names_its_neighbours(name, hint):
    with pytest.raises(EvaluationError) as caught:
        evaluate({"q1": {"a": 1.0}}, QRELS, [name])
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_judgments_that_do_not_belong_to_the_run():
    with pytest.raises(EvaluationError, match="share no query"):
        evaluate({"x": {"a": 1.0}}, QRELS)
    with pytest.raises(EvaluationError, match="no judgments"):
        evaluate({"x": {"a": 1.0}}, {})


@pytest.mark.parametrize(("prediction", "golds", "em", "f1"), [
    ("The Denver Broncos!", ["denver broncos"], 1, 1),
    ("Broncos", ["Denver Broncos", "broncos of Denver"], 0, 2 / 3),
    ("the cat sat", ["a dog", "cat"], 0, 2 / 3),
    ("", ["the"], 1, 1),
    ("", ["cat"], 0, 0),
    ("cat cat", ["cat"], 0, 2 / 3),
])
def test_answer_scores(prediction, golds, em, f1):
    assert exact_match(prediction, golds) == em
    assert token_f1(prediction, golds) == pytest.approx(f1)


def test_answers_need_golds():
    for golds in ([], "cat"):
        with pytest.raises(EvaluationError):
            token_f1("cat", golds)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_the_exact_test_equals_scipys(pairs):
    from scipy.stats import permutation_test

    a, b = np.array(pairs, dtype=float).T / 4
    ours = randomisation_test(a, b)
    theirs = permutation_test((a, b), lambda x, y: np.mean(y - x), permutation_type="samples", vectorized=False,
                              n_resamples=np.inf)
    assert ours.exact
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.difference == pytest.approx(theirs.statistic)


def test_the_sampled_test_is_near_the_exact_one_and_repeats():
    generator = np.random.default_rng(3)
    a = generator.random(16)
    b = a + generator.normal(0.05, 0.1, 16)
    exact, sampled = randomisation_test(a, b, rounds=2**16), randomisation_test(a, b, rounds=20_000, seed=1)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.01)
    assert sampled == randomisation_test(a, b, rounds=20_000, seed=1)
    assert randomisation_test(b, a, rounds=2**16).p == exact.p
    many = randomisation_test(np.zeros(3000), np.ones(3000), rounds=1000)
    assert many.p == 1 / 1001


def test_identical_runs_are_guarded():
    result = randomisation_test([0.1, 0.2], [0.1, 0.2])
    assert (result.identical, result.p, result.difference) == (True, 1.0, 0.0)
    for a, b in (([], []), ([1.0], [1.0, 2.0]), ([float("nan")], [1.0])):
        with pytest.raises(EvaluationError):
            randomisation_test(a, b)


def test_the_table_compares_every_run_with_the_first():
    first = {"q1": {"c": 2.0, "a": 1.0}, "q2": {"a": 1.0}}
    rows = compare({"first": first, "same": first, "worse": {"q1": {"b": 1.0}}}, QRELS, ["nDCG@10", "RR@10"])
    assert [(row.run, row.metric) for row in rows] == [(r, m) for r in ("first", "same", "worse")
                                                       for m in ("nDCG@10", "RR@10")]
    assert rows[0].test is None
    assert rows[2].test is not None
    assert rows[2].test.identical
    assert rows[4].test is not None
    assert (rows[4].wins, rows[4].ties, rows[4].losses, rows[4].test.p, rows[4].test.difference) == (0, 0, 2, 0.5, -1.0)
    with pytest.raises(EvaluationError):
        compare({}, QRELS)
