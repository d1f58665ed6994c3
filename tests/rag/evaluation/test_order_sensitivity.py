"""Order sensitivity: a reranker of places is found out, one of texts is acquitted, and the command line says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag.app.cli import app
from regard.rag.dag.pipeline import Pipeline
from regard.rag.dag.stage import Stage
from regard.rag.errors import ConfigError, EvaluationError, PipelineError
from regard.rag.evaluation.order import OrderReport, kendall_tau, order_sensitivity, pipeline_order_sensitivity
from regard.rag.lm import LanguageModel
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.rerankers import AttentionReranker, BlockICR, CrossEncoder
from regard.retrievers import BM25
from scipy.stats import kendalltau
from typer.testing import CliRunner

N = 20
QUERIES = [Query(f"question {i}", f"q{i}") for i in range(30)]
NAMES = ["best-first", "best-last", "shuffled"]


class ByPlace(Stage):
    """Scores what it is given first (or last) highest, whatever it is."""

    last: bool = False

    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        sign = 1 if self.last else -1
        return Batch(r.rescore(sign * np.arange(len(r), dtype=np.float32), "logit") for r in rankings)


class ByLength(Stage):
    """Scores a passage by its length: a property of the passage alone. ``depth`` as other rerankers have it."""

    depth: int = 100

    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        heads = [r.top(self.depth) for r in rankings]
        return Batch(h.rescore([float(len(p.text)) for p in h.passages()], "logit") for h in heads)


@pytest.fixture(scope="module")
def rankings() -> list[Ranking]:
    """For each query 20 candidates of different random lengths."""
    random = np.random.default_rng(5)
    made = []
    for query in QUERIES:
        lengths = random.permutation(np.arange(1, N + 1))
        store = PassageList([Passage(f"{query.id}-p{i}", f"{query.id}-d{i}", "x" * n, 0, int(n))
                             for i, n in enumerate(lengths)])
        made.append(Ranking.ranked(np.arange(N), np.arange(N, 0, -1), "bm25", store).marked("first"))
    return made


QRELS = {q.id: {f"{q.id}-d0": 2, f"{q.id}-d3": 1} for q in QUERIES}


def effects(report: OrderReport) -> dict[str, tuple[float, float, int]]:
    assert [e.arrangement for e in report.effects] == NAMES
    return {e.arrangement: (e.tau, e.top_kept, e.unchanged) for e in report.effects}


def means(report: OrderReport) -> dict[str, float]:
    return {row.run: row.mean for row in report.comparisons}


@pytest.mark.parametrize("last", [False, True])
def test_a_reranker_of_places_is_found_out(rankings: list[Ranking], last: bool) -> None:
    report = order_sensitivity(ByPlace(last=last).run, QUERIES, rankings, QRELS)
    found = effects(report)
    tau = 1.0 if last else -1.0
    assert found["best-first"] == (tau, 10.0, 30)
    assert found["best-last"] == (tau, 0.0, 0)
    assert found["shuffled"][0] == tau
    assert 3 < found["shuffled"][1] < 7  # 5 of 10 expected by chance
    assert all(e.interval == (tau, tau) for e in report.effects)
    best, worst = ("best-last", "best-first") if last else ("best-first", "best-last")
    assert means(report)[best] > 0.9
    assert means(report)[worst] == 0
    assert [row.test is None for row in report.comparisons] == [True, False, False]
    for correction, factor in (("holm", 2), ("none", 1)):
        rows = order_sensitivity(ByPlace(last=last).run, QUERIES, rankings, QRELS,
                                 correction=correction).comparisons[1:]
        assert max(row.p_adjusted / row.test.p for row in rows) == pytest.approx(factor)


def test_a_reranker_of_texts_gives_the_same_in_every_order(rankings: list[Ranking]) -> None:
    report = order_sensitivity(ByLength().run, QUERIES, rankings, QRELS)
    found = effects(report)
    assert all((kept, unchanged) == (10.0, 30) for _, kept, unchanged in found.values())
    assert found["best-first"][0] == pytest.approx(-found["best-last"][0])
    assert len(set(means(report).values())) == 1
    assert all(row.test is None or row.test.identical for row in report.comparisons)
    (shuffled,) = (e for e in report.effects if e.arrangement == "shuffled")
    assert shuffled.interval[0] < 0 < shuffled.interval[1]
    assert abs(shuffled.tau) < 0.1


def test_tau_is_between_score_and_place_of_each_query(rankings: list[Ranking]) -> None:
    """Against scipy, with the arrangements that the reranker really saw."""
    seen: dict[str, list[tuple[float, Batch[Ranking]]]] = {}
    stage = ByLength()

    def watched(queries: Batch[Query], given: Batch[Ranking]) -> Batch[Ranking]:
        for query, ranking in zip(queries, given, strict=True):
            lengths = [len(p.text) for p in ranking.passages()]
            seen.setdefault(query.id, []).append((kendalltau(np.arange(N), lengths).statistic, ranking))
        return stage.run(queries, given)

    report = order_sensitivity(watched, QUERIES, rankings, QRELS)
    for i, effect in enumerate(report.effects):
        assert effect.tau == pytest.approx(np.mean([given[i][0] for given in seen.values()]))
        assert effect.interval[0] <= effect.tau <= effect.interval[1]
    for ranking, query in zip(rankings, QUERIES, strict=True):
        first, last, shuffled = (given.rows.tolist() for _, given in seen[query.id])
        assert first == ranking.rows.tolist() == last[::-1]
        assert sorted(shuffled) == sorted(first)
        assert shuffled not in (first, last)
        assert all(dict(zip(r.rows.tolist(), r.scores.tolist(), strict=True)) == dict(zip(first,
                                                                                          ranking.scores.tolist(),
                                                                                          strict=True))
                   for _, r in seen[query.id])  # scores travel with their passages
    assert any(a[2][1].rows.tolist() != b[2][1].rows.tolist() for a, b in pairwise(seen.values()))


def test_the_shuffle_depends_on_the_seed_and_the_query_alone(rankings: list[Ranking]) -> None:
    def orders(some: slice, seed: int) -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {}

        def watched(queries: Batch[Query], given: Batch[Ranking]) -> Batch[Ranking]:
            seen.update({q.id: r.rows.tolist() for q, r in zip(queries, given, strict=True)})
            return ByPlace().run(queries, given)

        order_sensitivity(watched, QUERIES[some], rankings[some], QRELS, seed=seed)
        return seen

    everyone = orders(slice(None), 0)
    assert orders(slice(10, 14), 0).items() <= everyone.items()
    assert orders(slice(None), 1) != everyone


def test_the_same_passage_twice_and_queries_that_cannot_be_arranged(rankings: list[Ranking]) -> None:
    double = rankings[0].take([0, 1, 1, 2])
    one, none = rankings[1].top(1), rankings[2].take([])
    judged = {q.id: QRELS[q.id] for q in QUERIES[:3]}
    report = order_sensitivity(ByLength().run, QUERIES[:4], [double, one, none, rankings[3]], judged)
    assert (report.queries, report.candidates) == (1, 4.0)
    assert [e.top_kept for e in report.effects] == [4, 4, 4]
    assert means(report)["best-first"] > 0.4  # over that one query, not over the three judged ones
    with pytest.raises(EvaluationError, match="at least two candidates"):
        order_sensitivity(ByLength().run, QUERIES[1:3], [one, none], QRELS)
    with pytest.raises(EvaluationError, match="one id"):
        order_sensitivity(ByLength().run, [QUERIES[0]] * 2, rankings[:2], QRELS)


def test_a_reranker_that_drops_candidates_is_refused(rankings: list[Ranking]) -> None:
    with pytest.raises(EvaluationError, match="gave 5 passages for 20 candidates"):
        order_sensitivity(ByLength(depth=5).run, QUERIES, rankings, QRELS)


@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(-3, 3, allow_nan=False, width=16)), min_size=2, max_size=30))
def test_tau_is_scipys(pairs: list[tuple[int, float]]) -> None:
    a, b = ([p[i] for p in pairs] for i in (0, 1))
    theirs = kendalltau(a, b).statistic
    assert kendall_tau(a, b) == pytest.approx(0.0 if np.isnan(theirs) else theirs, abs=1e-12)


# -- real rerankers and pipelines -----------------------------------------------------------

FLEAS = ["A flea lives for about a hundred days.", "Bread is baked in an oven.", "The Eiffel Tower is in Paris.",
         "Fleas lay eggs."]


@pytest.fixture(scope="module")
def loaded():
    """Holds the model, so that it is loaded once."""
    model = LanguageModel.acquire("smollm2", device="cpu")
    yield
    model.release()


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(("policy", "free"), [("ICR", False), (BlockICR(), True)], ids=["ICR", "BlockICR"])
def test_attention_in_a_causal_prompt_depends_on_order_and_under_the_block_mask_does_not(policy: object,
                                                                                         free: bool) -> None:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text)) for i, text in enumerate(FLEAS)])
    ranking = Ranking.ranked(np.arange(4), [4.0, 3.0, 2.0, 1.0], "bm25", store).marked("first")
    scores: list[dict[int, float]] = []

    def rerank(queries: Batch[Query], given: Batch[Ranking]) -> Batch[Ranking]:
        done: Batch[Ranking] = run(queries, given)
        scores.append(dict(zip(done[0].rows.tolist(), done[0].scores.tolist(), strict=True)))
        return done

    with AttentionReranker(policy=policy, device="cpu").opened() as run:
        report = order_sensitivity(rerank, [Query("how long does a flea live")], [ranking], {"q": {"d0": 1}}, seed=1)
    assert report.effects[0].unchanged == 1
    assert (scores[0] == scores[1] == scores[2]) is free
    if free:
        assert [e.unchanged for e in report.effects] == [1, 1, 1]
    else:
        assert all(abs(scores[0][row] - scores[1][row]) > 1e-3 for row in (1, 2))
        assert all(-1 <= e.tau <= 1 for e in report.effects)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Queries over the facts, one of them without judgments, and their qrels."""
    asked = {"q1": ("flea eggs, tides, blood, water", "flea"), "q2": ("yeast sugar dough, tree, tower, ash", "bread"),
             "q3": ("molten rock erupts, nectar, cables", "volcano"), "q4": ("moon and bees", "")}
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    queries.write_text("".join(json.dumps({"_id": q, "text": t}) + "\n" for q, (t, _) in asked.items()))
    qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t1\n" for q, (_, d) in asked.items() if d))
    return queries, qrels


def two_rerankers(index: Path) -> Pipeline:
    p = Pipeline("two")
    query = p.input(Query)
    first = p.add(ByPlace(last=True), query, p.add(BM25(index), query), name="flip")
    p.output(passages=p.add(ByLength(), query, first, name="length"))
    return p


def test_in_a_pipeline_the_last_reranker_is_tested_on_what_it_is_fed(facts_index: Path,
                                                                     files: tuple[Path, Path]) -> None:
    report = pipeline_order_sensitivity(two_rerankers(facts_index), *files)
    assert (report.reranker, report.queries) == ("length", 3)
    assert 3 <= report.candidates <= 8
    assert {e.unchanged for e in report.effects} == {3}
    named = pipeline_order_sensitivity(two_rerankers(facts_index), *files, reranker="flip", k=3)
    assert (named.reranker, named.candidates) == ("flip", 3.0)
    assert [e.tau for e in named.effects] == [1.0, 1.0, 1.0]
    assert means(named)["best-last"] == 1.0  # BM25 has the right document first for all three


def test_queries_that_a_stage_rewrites_reach_the_reranker_rewritten(facts_index: Path,
                                                                    files: tuple[Path, Path]) -> None:
    seen: set[str] = set()

    class Louder(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(Query(q.text.upper(), q.id) for q in queries)

    class Listening(ByLength):
        def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
            seen.update(q.text for q in queries)
            return super().run(queries, rankings)

    p = Pipeline("rewriting")
    query = p.input(Query)
    louder = p.add(Louder(), query)
    p.output(passages=p.add(Listening(), louder, p.add(BM25(facts_index), query)))
    pipeline_order_sensitivity(p, *files)
    assert seen == {"FLEA EGGS, TIDES, BLOOD, WATER", "YEAST SUGAR DOUGH, TREE, TOWER, ASH",
                    "MOLTEN ROCK ERUPTS, NECTAR, CABLES"}


def bare(index: Path) -> Pipeline:
    p = Pipeline("bare")
    p.output(passages=p.add(BM25(index), p.input(Query)))
    return p


def shallow(index: Path) -> Pipeline:
    p = Pipeline("shallow")
    query = p.input(Query)
    p.output(passages=p.add(ByLength(depth=5), query, p.add(BM25(index), query)))
    return p


def given_rankings(index: Path) -> Pipeline:
    p = Pipeline("given")
    p.output(passages=p.add(ByLength(), p.input(Query), p.input(Ranking)))
    return p


@pytest.mark.parametrize(("make", "name", "error", "says"), [
    (bare, None, PipelineError, "no reranker"), (two_rerankers, "bm25", ConfigError, "flip or length"),
    (shallow, None, ConfigError, "lower -k to 5"), (given_rankings, None, ConfigError, "queries and nothing else"),
])
def test_pipelines_that_cannot_be_tested(
    facts_index: Path, files: tuple[Path, Path], make: Callable[[Path], Pipeline], name: str | None,
    error: type[Exception], says: str,
) -> None:
    with pytest.raises(error, match=says):
        pipeline_order_sensitivity(make(facts_index), *files, reranker=name)


def test_files_that_do_not_belong_together(facts_index: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("q9\tflea\t1\n")
    with pytest.raises(EvaluationError, match="one collection"):
        pipeline_order_sensitivity(two_rerankers(facts_index), files[0], tmp_path / "other.tsv")


def _eval(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["eval", "--order-sensitivity", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_the_command_line(facts_index: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    p = Pipeline("reranked")
    query = p.input(Query)
    p.output(passages=p.add(CrossEncoder(depth=20), query, p.add(BM25(facts_index), query)))
    p.save(tmp_path / "p.yaml")
    both = ["--queries", files[0], "--qrels", files[1]]
    found = json.loads(_eval("--pipeline", tmp_path / "p.yaml", "--index", facts_index, *both, "-k", 5, "-m", "RR@10",
                             "--json"))
    assert (found["reranker"], found["queries"]) == ("crossencoder", 3)
    assert [e["arrangement"] for e in found["effects"]] == NAMES
    assert [e["unchanged"] for e in found["effects"]] == [3, 3, 3]  # a cross-encoder reads one passage at a time
    assert [(row["run"], row["metric"], row["mean"]) for row in found["comparisons"]] == [(name, "RR@10", 1.0)
                                                                                          for name in NAMES]
    text = _eval("--pipeline", tmp_path / "p.yaml", *both, "--correction", "none")
    assert "not corrected for 2" in " ".join(text.split())
    assert "shuffled" in text
    assert "3 of 3" in text
    assert "nDCG@10" in text


def test_the_command_line_says_what_is_missing(files: tuple[Path, Path], tmp_path: Path) -> None:
    qrels = ["--qrels", str(files[1])]
    for wrong in (["--order-sensitivity", *qrels], ["--order-sensitivity", "--queries", str(files[0]), *qrels],
                  [*qrels],
                  ["run.trec", "--queries", str(files[0]), *qrels], ["run.trec", "--order-sensitivity", *qrels]):
        with pytest.raises(ConfigError, match="eval"):
            CliRunner().invoke(app, ["eval", *wrong], catch_exceptions=False)
