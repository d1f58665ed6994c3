"""TREC and BEIR files, and the order of a run."""

import gzip
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag.errors import EmptyQueryError, EvaluationError, QueryError, StorageError
from regard.rag.evaluation import (
    read_beir,
    read_qrels,
    read_queries,
    read_run,
    run_from_rankings,
    write_qrels,
    write_run,
)
from regard.rag.evaluation.runs import untied
from regard.rag.nouns import Passage, PassageList, Query, Ranking

ids = st.text(st.characters(), max_size=8) | st.sampled_from(["percent:", "percent:a%20b", "http://x/a%20b",
                                                              "percent:é", "a b",
                                                           "\ud800"])
scores = st.floats(-1e30, 1e30, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12])
runs = st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=6), min_size=1, max_size=4)
qrels_values = st.dictionaries(ids, st.dictionaries(ids, st.integers(-2, 4), min_size=1, max_size=4), min_size=1,
                               max_size=4)


def order(run: dict[str, dict[str, float]]) -> dict[str, list[str]]:
    return {query: sorted(documents, key=lambda d: -documents[d]) for query, documents in run.items()}


@given(runs)
def test_untied_keeps_the_order_and_leaves_no_ties(run):
    result = untied(run)
    assert {query: list(documents) for query, documents in result.items()} == order(run)
    for documents in result.values():
        values = np.array(list(documents.values()), dtype=np.float32)
        assert (np.diff(values) < 0).all()
        assert values.tolist() == list(documents.values())
    assert untied(result) == result


def test_neighbouring_scores_stay_as_they_are_on_both_sides_of_zero():
    for start in (1.0, -1.0, -1.0000001, 0.0, -3e38, 1e-40):
        first = np.float32(start)
        second = np.nextafter(first, np.float32(-np.inf))
        run = {"q": {"a": float(first), "b": float(second)}}
        assert repr(untied(run)) == repr(run)
    assert repr(untied({"q": {"a": -0.0}})) == repr({"q": {"a": 0.0}})
    assert untied({"q": {"a": -1.0, "b": -1.0}}) == {"q": {"a": -1.0,
                                                           "b": float(np.nextafter(np.float32(-1), np.float32(-2)))}}


@given(run=runs, packed=st.booleans())
def test_a_run_survives_the_disk_exactly(tmp_path_factory, run, packed):
    path = tmp_path_factory.mktemp("run") / ("a.run.gz" if packed else "a.run")
    write_run(run, path)
    again = read_run(path)
    assert again == untied(run)
    assert {query: list(documents) for query, documents in again.items()} == order(run)


@given(qrels=qrels_values, name=st.sampled_from(["q.tsv", "q.txt", "q.tsv.gz", "q.qrels.gz"]))
def test_qrels_survive_the_disk(tmp_path_factory, qrels, name):
    path = tmp_path_factory.mktemp("qrels") / name
    write_qrels(qrels, path)
    assert read_qrels(path) == qrels


def test_ties_in_a_foreign_run_rank_as_in_trec_eval(tmp_path):
    path = tmp_path / "foreign.run"
    path.write_text("q Q0 a 1 2.0 x\nq Q0 c 2 1.0 x\nq\tQ0\tb\t3\t2.0\tx\n\n")
    assert list(read_run(path)["q"]) == ["b", "a", "c"]


@pytest.mark.parametrize(("name", "written"), [
    ("Lilu", "Lilu"), ("Lilu (mythology)", "percent:Lilu%20(mythology)"), ("http://x/a%20b", "http://x/a%20b"),
    ("100 %", "percent:100%20%25"),
    ("", "percent:"), ("a\tb\x1b", "percent:a%09b%1B"), ("percent:a", "percent:percent:a"), ("Käse", "Käse"),
    ("a\u3000b", "percent:a%E3%80%80b"),
])
def test_an_id_is_one_column_for_every_tool(tmp_path, name, written):
    write_run({"q": {name: 1.0}}, tmp_path / "a.run", tag="t")
    assert (tmp_path / "a.run").read_text() == f"q Q0 {written} 1 1.0 t\n"
    write_qrels({name: {name: 1}}, tmp_path / "a.qrels")
    assert (tmp_path / "a.qrels").read_text() == f"{written} 0 {written} 1\n"


@given(runs)
def test_a_run_has_six_columns_in_printable_characters(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "a.run"
    write_run(run, path, tag="two words")
    for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        assert len(line.split()) == 6
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in line)


def test_ids_of_others_are_read_as_they_stand(tmp_path):
    path = tmp_path / "a.qrels"
    path.write_text("q1\tLilu (mythology)\t1\nq1\thttp://x/a%20b\t1\nq1\tpercent:%zz\t1\nq1\tpercent:%ff\t1\nq1\tpercent:plain\t1\n")
    assert list(read_qrels(path)["q1"]) == ["Lilu (mythology)", "http://x/a%20b", "percent:%zz", "percent:%ff",
                                            "percent:plain"]


@pytest.mark.parametrize(("line", "problem"), [
    ("q Q0 a 1 2.0", "six columns"), ("q Q0 a 1 two x", "'two'"), ("q Q0 a 1 nan x", "finite"),
    ("q Q0 z 9 1.0 x", "ranked twice"),
])
def test_a_bad_run_line_is_named(tmp_path, line, problem):
    path = tmp_path / "bad.run"
    path.write_text(f"q Q0 z 1 3.0 x\n{line}\n")
    with pytest.raises(EvaluationError, match=problem) as caught:
        read_run(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize(("text", "problem"), [
    ("q 0 a\nq 0 b 1 1 1\n", "four columns"), ("q 0 a 1\nq 0 b yes\n", "whole number"),
    ("q 0 a 1\nq 0 a 2\n", "two grades"),
])
def test_a_bad_qrels_line_is_named(tmp_path, text, problem):
    path = tmp_path / "bad.qrels"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=problem) as caught:
        read_qrels(path)
    assert caught.value.where == f"{path}:2"


def test_unreadable_files_and_unwritable_scores(tmp_path):
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_run(tmp_path / "absent.run")
    broken = tmp_path / "cut.run.gz"
    broken.write_bytes(gzip.compress("".join(f"q Q0 {n} 1 {n} x\n" for n in range(50)).encode())[:-12])
    with pytest.raises(EvaluationError, match="damaged"):
        read_run(broken)
    with pytest.raises(EvaluationError, match="finite"):
        write_run({"q": {"a": 1e300}}, tmp_path / "a.run")
    with pytest.raises(StorageError):
        write_run({"q": {"a": 1.0}}, tmp_path / "absent" / "a.run")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.run"
    write_run({"q": {"a": 1.0}}, path)
    before = path.read_bytes()
    with pytest.raises(EvaluationError):
        write_run({"q": {"a": 1.0}, "r": {"b": float("inf")}}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_rankings_become_a_run_by_document_with_the_best_passage():
    passages = [Passage(f"{d}#{n}", d, "text", 0, 4) for d, n in [("a", 0), ("a", 1), ("b", 0), ("c", 0)]]
    ranking = Ranking.ranked([0, 1, 2, 3], [1.0, 3.0, 2.0, 2.0], "bm25", PassageList(passages)).marked("s")
    query = Query("what", id="7")
    run = run_from_rankings([query], [ranking])
    assert list(run["7"]) == ["a", "b", "c"]
    assert run["7"]["a"] == 3.0
    assert run["7"]["c"] < run["7"]["b"] == 2.0
    assert list(run_from_rankings([query], [ranking], by="passage")["7"]) == ["a#1", "b#0", "c#0", "a#0"]
    with pytest.raises(EvaluationError, match="two queries"):
        run_from_rankings([query, query], [ranking, ranking])
    with pytest.raises(EvaluationError, match="1 queries"):
        run_from_rankings([query], [])


def test_queries_carry_answers_and_filters(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text("\ufeff" + json.dumps({"_id": 1, "text": "who?", "metadata": {"answers": ["x"]}, "lang": "en"})
                    + "\n\n"
                    + json.dumps({"id": "b", "text": "when?", "filters": {"year": {"gte": 2020}}}))
    first, second = read_queries(path)
    assert (first.id, first.text, first.metadata) == ("1", "who?", {"lang": "en", "answers": ["x"]})
    assert second.filters == {"year": {"gte": 2020}}


@pytest.mark.parametrize(("line", "error"), [
    ("{", QueryError), ("[1]", QueryError), ('{"text": "x"}', QueryError),
    ('{"id": "1", "text": " "}', EmptyQueryError),
    ('{"id": "0", "text": "x"}', QueryError), ('{"id": "1", "text": "x", "filters": 3}', QueryError),
])
def test_a_bad_query_is_named(tmp_path, line, error):
    path = tmp_path / "queries.jsonl"
    path.write_text(f'{{"id": "0", "text": "fine"}}\n{line}\n')
    with pytest.raises(error) as caught:
        read_queries(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("packed", [False, True])
def test_a_beir_folder_has_the_queries_that_are_judged_in_the_splits_file(tmp_path, packed):
    def write(name: str, text: str) -> None:
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    (tmp_path / "qrels").mkdir()
    write("qrels/dev.tsv", "query-id\tcorpus-id\tscore\n2\td\t1\n1\td\t0\n")
    write("corpus.jsonl", "")
    write("queries.jsonl", "".join(json.dumps({"_id": str(i), "text": f"query {i}"}) + "\n" for i in range(4)))
    folder = read_beir(tmp_path, "dev")
    assert [query.id for query in folder.queries] == ["1", "2"]  # the file's order, without those that nobody judged
    assert (folder.qrels, folder.split) == ({"2": {"d": 1}, "1": {"d": 0}}, "dev")
    assert folder.corpus == tmp_path / ("corpus.jsonl.gz" if packed else "corpus.jsonl")


def test_a_beir_folder_without_its_parts(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\t2\t1\n")
    with pytest.raises(EvaluationError, match=r"qrels/test\.tsv") as caught:
        read_beir(tmp_path)
    assert caught.value.hint is not None
    assert "dev.tsv" in caught.value.hint


@pytest.mark.data
def test_the_shared_collections_read(shared_data):
    for name, judged in (("scifact", 300), ("vaswani", 93), ("msmarco-dl19", 43), ("hotpotqa-100", 100),
                         ("xquad-en", 1190)):
        folder = read_beir(shared_data / name)
        assert len(folder.queries) == len(folder.qrels) == judged
        assert folder.corpus.name == "corpus.jsonl.gz"
    assert read_beir(shared_data / "xquad-en").queries[0].metadata["answers"] == ["308"]
