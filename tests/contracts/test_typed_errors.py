"""Whatever is handed to the public API, only Regard's own errors come out."""

from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index, delete_documents
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Pipeline
from regard.rag.app.batch import run_queries
from regard.rag.app.doctor import examine
from regard.rag.errors import ConfigError, IndexFormatError, PipelineError, QueryError, RegardError, StorageError
from regard.rag.evaluation import read_beir, read_qrels, read_queries, read_run, write_qrels, write_run
from regard.rag.evaluation.significance import compare
from regard.rag.lm.heads import HeadSet, published_heads
from regard.rag.nouns import Answer, Citation, Context, Document, Passage, PassageList, Query, Ranking
from regard.retrievers import BM25

SCALARS = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
           | st.just(10**400)
           | st.just(date(2024, 1, 1)) | st.just(object()) | st.sampled_from(["year", "d1", "fleas", "\ud800", "\0",
                                                                              "s3://b/x"]))
GARBAGE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                                            max_size=3)
                       | st.dictionaries(st.sampled_from(["in", "gte", "eq", "contains", "year", "id", "text", "rows",
                                                          "passages"]), inner,
                                         max_size=4) | st.tuples(inner), max_leaves=6)
PATHS = [5, None, b"x", ["x"], "\0", "x" * 5000, "s3://bucket/x", "gs://b", Path("s3://bucket/x")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("typed") / "index"
    build_index([Document(f"d{i}", f"fleas live long {i}", "T", {"year": 2000 + i, "tags": ["a"], "when": "2024-01-01"})
                 for i in range(4)],
                path, encoder=None, views=["bm25"], progress=False)
    return path


@pytest.fixture(scope="module")
def pipeline(index: Path) -> Pipeline:
    p = Pipeline()
    p.output(passages=p.add(BM25(index, k=3), p.input(Query)))
    return p


@settings(max_examples=150)
@given(value=GARBAGE)
def test_garbage_where_values_go(pipeline: Pipeline, index: Path, value: Any) -> None:
    hits = pipeline.run("fleas").passages
    asked: list[Callable[[], Any]] = [
        lambda: Query(value), lambda: Query("x", id=value), lambda: Query("x", filters=value),
        lambda: pipeline.run(value), lambda: pipeline.run(query=value), lambda: pipeline.run([value]),
        lambda: pipeline.run(Query("fleas", filters=value)),
        lambda: pipeline.run(Query("fleas", filters={"year": value})),
        lambda: pipeline.run(Query("fleas", filters={"tags": value})),
        lambda: LanceStore(index).select({"when": {"in": value}}),
        lambda: BM25(index, filters=value), lambda: BM25(index, k=value), lambda: hits.top(value),
        lambda: Ranking.ranked(value, value, "bm25", PassageList([])),
        lambda: compare(value, value, value), lambda: compare({"a": value}, {"q": {"d": 1}}),
        lambda: compare({"a": {"q": {"d": 1.0}}}, value),
        *(lambda kind=kind: kind.from_dict(value)
          for kind in (Document, Passage, Query, Answer, Citation, Context, Ranking)),
    ]
    for call in asked:
        with suppress(RegardError):
            call()


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_what_is_no_path(pipeline: Pipeline, path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[Callable[[], Any]] = [
        lambda: build_index([Document("a", "x")], path, encoder=None, views=["bm25"], progress=False),
        lambda: LanceStore(path),
        lambda: delete_documents(path, ["a"]), lambda: BM25(path).apply(["x"]), lambda: Pipeline.load(path),
        lambda: pipeline.save(path),
        lambda: read_run(path), lambda: read_qrels(path), lambda: read_queries(path), lambda: read_beir(path),
        lambda: write_run({"q": {"d": 1.0}}, path), lambda: write_qrels({"q": {"d": 1}}, path),
        lambda: published_heads(path),
        lambda: run_queries(pipeline, path, "out"), *([lambda: examine(path)] if path is not None else []),
    ]
    for call in calls:
        with pytest.raises(RegardError):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("s3://bucket/x", Path("s3://bucket/x")):
        with pytest.raises(ConfigError, match="object stores are not supported"):
            build_index([Document("a", "x")], name, encoder=None, views=["bm25"], progress=False)
        assert "object stores" in str(next(BM25(name).check()))


@pytest.mark.parametrize("wrong", [
    {"encoder": 123}, {"encoder": 12.5}, {"encoder": ""}, {"chunker": 5}, {"views": 5}, {"views": [5]},
    {"views": "bm25"},
    {"shard_passages": 0}, {"shard_passages": "x"}, {"commit_seconds": float("nan")}, {"commit_seconds": "x"},
    {"commit_seconds": -1},
], ids=repr)
def test_wrong_settings_of_a_job_leave_no_index(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        build_index([Document("a", "x")], tmp_path / "i", **{"encoder": None, "progress": False, **wrong})
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("ids", ["d1", b"d1", 5, None, [5], [None]])
def test_document_ids_are_a_list_of_texts(index: Path, ids: Any) -> None:
    with pytest.raises(ConfigError):
        delete_documents(index, ids)


def test_deleting_what_is_not_there_makes_no_version(index: Path) -> None:
    before = LanceStore(index).fingerprint
    gone = delete_documents(index, ["nope", "d'1", "\ud800", "\0"])
    assert (gone.documents, gone.passages, gone.unknown) == (0, 0, 4)
    assert delete_documents(index, []).unknown == 0
    assert LanceStore(index).fingerprint == before


def test_outputs_are_refused_before_the_run(pipeline: Pipeline, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"_id": "1", "text": "fleas"}\n')
    monkeypatch.setattr(Pipeline, "run", lambda *_: pytest.fail("it ran"))
    for files in ({"out": tmp_path / "no" / "x.run"}, {"out": tmp_path}, {"out": queries / "x"},
                  {"out": tmp_path / ("x" * 300)}):
        with pytest.raises((StorageError, ConfigError)):
            run_queries(pipeline, queries, **files)
    for more in ({"batch": "x"}, {"batch": 1.5}, {"by": "x"}):
        with pytest.raises(ConfigError):
            run_queries(pipeline, queries, tmp_path / "x.run", **more)
    queries.write_text('{"_id": "1", "text": "fleas"}\n{"_id": "1", "text": "fleas"}\n')
    with pytest.raises(QueryError, match="two queries"):
        run_queries(pipeline, queries, tmp_path / "x.run")


@pytest.mark.parametrize("text",
                         ["", "[]", "5", "null", "[" * 9_999, '{"format": "regard-heads/1"}', '{"1-1": []}', '["1-1"]',
                                  '{"a": 1}',
                                  '{"format": "regard-heads/1", "model": "", "weights": "", "recipe": {}, '
                                  '"measures": {"ndcg": 5}, "intervals": {}}'])
def test_files_that_are_no_heads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    file.write_text(text)
    for call in (lambda: HeadSet.load(file), lambda: published_heads(file)):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"5", b'{"format": 1}',
                                 b'{"format": 1, "id": 5, "chunker": {}, "text": true}',
                                 b'{"format": 1, "id": "x", "chunker": {}, "text": true}', b"[" * 100_000,
                                 b'{"format": "1"}'])
def test_a_description_that_is_garbage(raw: bytes, tmp_path: Path) -> None:
    import lance
    import pyarrow as pa

    schema = pa.schema([("row", pa.int64())], metadata={b"regard": raw})
    lance.write_dataset(schema.empty_table(), str(tmp_path / "passages.lance"), schema=schema)
    with pytest.raises(IndexFormatError):
        LanceStore(tmp_path)


def test_an_input_given_twice(pipeline: Pipeline) -> None:
    with pytest.raises(PipelineError):
        pipeline.run("a", query="b")


@pytest.mark.parametrize("rows", [None, 5, [[0]], ["a"], [0.5], [None], [2 ** 70], [99], [-1]], ids=repr)
def test_what_are_no_rows(index: Path, rows: Any) -> None:
    store = LanceStore(index)
    for fetch in (store.passages, store.document_ids, store.contents):
        if fetch == store.contents and rows is None:
            continue  # all of them
        with pytest.raises(RegardError):
            fetch(rows)
    assert (store.passages([]), store.document_ids([]), len(store.contents([]))) == ([], [], 0)


@pytest.mark.parametrize("kind", [5, "Query", None, [Query]], ids=repr)
def test_what_is_no_type_of_an_input(kind: Any) -> None:
    with pytest.raises(RegardError, match="no type of an input"):
        Pipeline().input(kind)
