"""What every kind of store in the table ``regard.stores`` promises, the product's own and a stranger's
(``tests/stores.py``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index, compact, delete_documents, open_index, verify_index
from regard.indexers.jobs.columns import encode_existing
from regard.indexers.stores.changes import Changes
from regard.indexers.stores.locks import locked
from regard.indexers.stores.opening import located
from regard.rag import Batch, Document, Passage, Pipeline, Query
from regard.rag.dag.stores import open_store
from regard.rag.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    IndexFormatError,
    IndexNotFound,
    QueryError,
    StorageError,
)
from regard.rag.tables import table
from regard.retrievers import BM25, Dense, Fuse

from ..conftest import HashEncoder
from ..stores import SQLite

STORES = table("regard.stores")
LISTED = {STORES.place_of(name): name for name in STORES.names() if name != "path"}
KINDS = [*LISTED.values(), SQLite.scheme]
WORDS = ["flea", "moon", "bread", "volcano", "heart", "bridge", "honey"]


@pytest.fixture(autouse=True, scope="module")
def stranger() -> Iterator[None]:
    STORES.register(SQLite.scheme, SQLite)
    yield
    STORES.forget(SQLite.scheme)


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}:{tmp_path / 'index'}"


def documents(n: int, edited: str = "") -> list[Document]:
    return [Document(f"d{i}", f"{WORDS[i % 7]} {WORDS[i % 5]} number{i}{edited}", f"title {i}",
                     {"year": 2000 + i, "tags": [WORDS[i % 7]]}) for i in range(n)]


def build(made: Any, index: str, **settings: Any) -> Any:
    given: dict[str, Any] = {"encoder": HashEncoder(8), "chunker": "whole", "shard_passages": 4, "progress": False}
    return build_index(made, index, **(given | settings))


def content(index: str) -> list[tuple[Any, ...]]:
    """Every passage with its vectors, by id; no row twice."""
    store = open_index(index)
    assert len(set(store.rows.tolist())) == len(store) == len(store.rows)
    vectors = [np.concatenate([*store.vectors(name), np.zeros((0, 8), np.float32)]).tolist() for name in store.encoders]
    passages = map(repr, store.passages(store.rows))
    return sorted(zip(passages, *vectors, strict=True))


# -- reading ------------------------------------------------------------------------------


def test_what_a_store_says_of_its_passages(index: str) -> None:
    made = documents(9)
    build(made, index)
    store = open_index(index)
    assert store.uri == index
    assert (store.path, store.has_text, len(store), store.documents()) == (located(index)[1], True, 9, 9)
    assert dict(store.document_hashes()).keys() == {document.id for document in made}
    passages = store.passages(store.rows)
    expected = [(d.id, d.text, d.title, d.metadata) for d in made]
    assert [(p.document_id, p.text, p.title, p.metadata) for p in passages] == expected
    assert [text for texts in store.texts() for text in texts] == [passage.full_text for passage in passages]
    encoder = HashEncoder(8)
    expected = encoder.encode_passages([passage.full_text for passage in passages])
    np.testing.assert_array_equal(np.concatenate([*store.vectors("hash_encoder")]), expected)
    np.testing.assert_array_equal(np.concatenate([*store.vectors("hash_encoder", start=5)]), expected[5:])
    assert [*store.encoders] == ["hash_encoder"]
    assert store.encoders["hash_encoder"].items() >= encoder.description().items()
    mixed = store.rows[[7, 2, 2, 5]]
    assert [p.id for p in store.passages(mixed)] == [passages[i].id for i in (7, 2, 2, 5)]
    assert store.document_ids(mixed) == ["d7", "d2", "d2", "d5"]
    np.testing.assert_array_equal(store.contents(mixed), store.contents()[[7, 2, 2, 5]])
    assert len({tuple(half) for half in store.contents().tolist()}) == 9
    with pytest.raises(IndexFormatError):
        store.passages([10**6])
    with pytest.raises(IndexNotFound):
        next(iter(store.vectors("nobody")))


def test_an_index_that_is_not_there(index: str) -> None:
    kind, path = located(index)
    assert (kind.exists(path), kind.version(path)) == (False, None)
    for opened in (open_index, open_store, verify_index, compact):
        with pytest.raises(IndexNotFound):
            opened(index)
    assert not (path / ".lock").exists()


CONDITIONS = st.one_of(
    st.fixed_dictionaries({"year": st.integers(1999, 2013) | st.fixed_dictionaries({"gte": st.integers(1999, 2013)})}),
    st.fixed_dictionaries({"year": st.lists(st.integers(1999, 2013), max_size=3),
                           "title": st.sampled_from(["title 3", "none"])}),
    st.fixed_dictionaries({"tags": st.lists(st.sampled_from(WORDS), max_size=3)}),
    st.fixed_dictionaries({"document_id": st.lists(st.sampled_from(["d1", "d4", "other"]), max_size=3)}),
)


@pytest.fixture(scope="module", params=KINDS)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stranger: None) -> Any:
    index = f"{request.param}:{tmp_path_factory.mktemp('filled')}"
    build(documents(14), index, encoder=None, views=[])
    return open_index(index)


@settings(max_examples=40)
@given(filters=CONDITIONS)
def test_filters_are_what_python_says(filled: Any, filters: dict[str, Any]) -> None:
    def meets(value: Any, wanted: Any) -> bool:
        if isinstance(wanted, dict):
            return bool(value >= wanted["gte"])
        if isinstance(wanted, list):
            return any(item in wanted for item in value) if isinstance(value, list) else value in wanted
        return bool(value == wanted)

    fields = [{**d.metadata, "title": d.title, "document_id": d.id} for d in documents(14)]
    expected = [all(meets(one[name], wanted) for name, wanted in filters.items()) for one in fields]
    assert filled.select(filters).tolist() == filled.rows[np.array(expected)].tolist()


def test_a_filter_that_no_passage_can_meet_is_an_error(filled: Any) -> None:
    with pytest.raises(QueryError, match="no passage has a field 'yaer'"):
        filled.select({"yaer": 2000})


# -- writing ------------------------------------------------------------------------------


def test_a_repeated_job_writes_nothing_twice(index: str) -> None:
    build(documents(10), index)
    before, version = content(index), open_index(index).fingerprint
    again = build(documents(10), index)
    assert (again.unchanged, again.added, again.encoded) == (10, 0, 0)
    assert (content(index), open_index(index).fingerprint) == (before, version)


def test_an_edited_document_takes_the_place_of_the_old_one(index: str) -> None:
    build(documents(10), index)
    highest = open_index(index).rows.max()
    made = [*documents(3, " edited"), *documents(10)[3:], *[replace(d, id=f"new{d.id}") for d in documents(2)]]
    report = build(made, index)
    assert (report.updated, report.added, report.unchanged) == (3, 2, 7)
    store = open_index(index)
    assert sorted(p.text for p in store.passages(store.rows)) == sorted(document.text for document in made)
    assert store.rows.tolist()[:7] == list(range(3, 10))
    assert min(store.rows.tolist()[7:]) > highest
    other = index + "-at-once"
    build(made, other)
    assert content(index) == content(other)


def test_rows_of_deleted_passages_are_not_given_again(index: str) -> None:
    build(documents(6), index)
    report = delete_documents(index, ["d5", "nobody"])
    assert (report.documents, report.passages, report.unknown) == (1, 1, 1)
    version = open_index(index).version
    kind, path = located(index)
    with locked(path):
        assert kind.write(path).delete(["nobody"]) == 0
    assert delete_documents(index, ["nobody"]).documents == 0
    assert open_index(index).version == version
    build([Document("later", "later text")], index)
    store = open_index(index)
    assert store.rows.tolist() == [0, 1, 2, 3, 4, 6]
    assert store.document_ids(store.rows) == ["d0", "d1", "d2", "d3", "d4", "later"]


def test_a_store_that_is_open_stays_as_it_was(index: str) -> None:
    build(documents(5), index)
    with closing(open_index(index)) as store:
        rows, fingerprint = store.rows.copy(), store.fingerprint
        delete_documents(index, ["d0"])
        build(documents(5, " edited"), index)
        assert store.fingerprint == fingerprint != open_index(index).fingerprint
        assert [p.text for p in store.passages(rows)] == [d.text for d in documents(5)]
        assert len(np.concatenate([*store.vectors("hash_encoder")])) == 5
        assert store.document_ids(store.select({"year": 2000})) == ["d0"]


def test_a_refused_commit_leaves_nothing(index: str) -> None:
    """The vectors are of another dimension: no passage may be there, and none that they replace may be gone."""
    build(documents(3), index)
    before, fingerprint = content(index), open_index(index).fingerprint
    kind, path = located(index)
    passages = [Passage(f"x{i}", f"x{i}", "text", 0, 4) for i in range(2)]
    changes = Changes(passages, [b"0" * 16] * 2, {"hash_encoder": np.zeros((2, 5), np.float32)}, ["d1"])
    with locked(path):
        writer = kind.write(path)
        assert writer.atomic
        with pytest.raises(DimensionMismatch):
            writer.commit(changes, writer.next_row())
    assert (content(index), open_index(index).fingerprint) == (before, fingerprint)


_CRAMPED = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from tests.contracts.test_stores import STORES, SQLite, build, Document
STORES.register(SQLite.scheme, SQLite)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = __import__("random").Random(1).randbytes(400_000).hex()
first = [Document("small", "small text")]
build(first, {index!r}, views=[])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    build([*first, *[Document(f"big{{i}}", noise[i * 200_000:][:200_000]) for i in range(4)]], {index!r}, views=[])
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_leaves_what_was_committed(index: str) -> None:
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", _CRAMPED.format(root=root, index=index)], capture_output=True,
                          text=True)
    assert done.stdout.split() == [StorageError.__name__], done.stderr
    store = open_index(index)
    assert store.document_ids(store.rows) == ["small"]
    build([Document("small", "small text"), *documents(3)], index)
    assert len(content(index)) == 4


def dies_after(texts: int) -> HashEncoder:
    """Ends its process after so many texts, as a kill does."""
    def encode(self: HashEncoder, some: Any) -> Any:
        if self.encoded + len(some) > texts:
            os._exit(9)
        return original(self, some)

    original = HashEncoder.encode_passages
    HashEncoder.encode_passages = encode  # type: ignore[method-assign]
    return HashEncoder(8)


_KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.contracts.test_stores import STORES, SQLite, build, dies_after, documents
STORES.register(SQLite.scheme, SQLite)
build(documents(30), {index!r}, encoder=dies_after({texts}), shard_passages=4)
"""


@pytest.mark.parametrize("texts", [0, 3, 17])
def test_a_killed_job_goes_on_where_it_stopped(texts: int, index: str) -> None:
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", _KILLED.format(root=root, index=index, texts=texts)],
                          capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    held = len(open_index(index))
    assert texts - 4 <= held <= texts
    report = build(documents(30), index)
    assert (report.unchanged, report.added) == (held, 30 - held)
    other = index + "-undisturbed"
    build(documents(30), other)
    assert content(index) == content(other)


def test_another_chunker_is_refused(index: str) -> None:
    build(documents(3), index)
    with pytest.raises(FingerprintMismatch):
        build(documents(3), index, chunker="sentences:20,overlap=5")


# -- encoders -----------------------------------------------------------------------------


class Second(HashEncoder):
    name = "second"


BETWEEN: dict[str, Callable[[str], object]] = {
    "nothing": lambda index: None, "a compaction": compact, "a deletion": lambda index: delete_documents(index, ["d0"]),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_a_further_encoder_goes_on_where_it_was_killed(between: str, index: str) -> None:
    build(documents(9), index)
    delete_documents(index, ["d8"])
    kind, path = located(index)
    encoder = Second(8, salt="second")
    with locked(path):
        writer = kind.write(path)
        texts = next(iter(writer.texts(3)))
        writer.pending("second", encoder.description()).append(encoder.encode_passages(texts))
    BETWEEN[between](index)
    with locked(path):
        writer = kind.write(path)
        kept = len(writer.pending("second", encoder.description()))
        encode_existing(writer, "second", encoder.description(), encoder, progress=False, commit_seconds=30)
    store = open_index(index)
    assert kept == (0 if between == "a deletion" else 3)
    assert encoder.encoded == 3 + len(store) - kept
    assert list(store.encoders) == ["hash_encoder", "second"]
    expected = Second(8, salt="second").encode_passages([p.full_text for p in store.passages(store.rows)])
    np.testing.assert_array_equal(np.concatenate([*store.vectors("second")]), expected)
    assert not len(kind.write(path).pending("second", encoder.description()))


# -- versions and upkeep ------------------------------------------------------------------


def test_histories_are_told_apart(index: str) -> None:
    """Two copies go their own ways to the same version number."""
    build(documents(3), index)
    before = open_index(index)
    copy = index + "-copy"
    shutil.copytree(located(index)[1], located(copy)[1])
    delete_documents(index, ["d0"])
    delete_documents(copy, ["d1"])
    one, two = open_index(index), open_index(copy)
    assert one.version == two.version > before.version
    assert one.manifest["id"] == two.manifest["id"]
    assert one.commit != two.commit
    assert one.descends_from(before.version, before.commit)
    assert one.descends_from(one.version, one.commit)
    assert not one.descends_from(two.version, two.commit)
    assert not before.descends_from(one.version, one.commit)
    assert one.unchanged_since(one.commit)
    assert not one.unchanged_since(before.commit)
    assert not one.unchanged_since(two.commit)


def test_a_compaction_changes_no_passage_and_no_order(index: str) -> None:
    build(documents(20), index, views=["bm25"])
    delete_documents(index, ["d3", "d7"])
    with closing(open_index(index)) as store:
        commit, rows = store.commit, store.rows.copy()
    before, highest = content(index), int(rows.max())
    compact(index, keep=10)  # what is removed is not known any more
    store = open_index(index)
    assert (content(index), store.rows.tolist()) == (before, rows.tolist())
    assert store.unchanged_since(commit)
    delete_documents(index, ["d19"])
    compact(index)
    build([Document("later", "later text")], index)
    assert int(open_index(index).rows.max()) > highest


def test_nothing_of_a_purged_document_is_left(index: str) -> None:
    secret = Document("zanzibarquux", "xylophonic zanzibarquux", "zanzibarquux", {"of": "zanzibarquux"})
    build([*documents(6), secret], index)
    path = located(index)[1]
    assert _holding(path, b"zanzibarquux")
    delete_documents(index, ["zanzibarquux"], purge=True)
    assert not _holding(path, b"zanzibarquux")
    assert len(content(index)) == 6


def _holding(path: Path, word: bytes) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file() and word in file.read_bytes()]


def test_damage_is_found_and_mended(index: str) -> None:
    made = [*documents(6), Document("hit", "zanzibarquux stands here")]
    build(made, index, encoder=None, views=["bm25"])
    assert verify_index(index, progress=False).ok
    for file in _holding(located(index)[1], b"zanzibarquux"):
        file.write_bytes(file.read_bytes().replace(b"zanzibarquux", b"zanzibarqxux"))
    report = verify_index(index, progress=False)
    assert not report.ok
    mended = verify_index(index, repair=True, progress=False)
    assert mended.ok
    assert "hit" in mended.lost
    build(made, index, encoder=None)
    assert sorted(document for document, _ in open_index(index).document_hashes()) == sorted(d.id for d in made)
    assert verify_index(index, progress=False).ok


# -- in a pipeline ------------------------------------------------------------------------


def _pipeline(index: str) -> Pipeline:
    pipeline = Pipeline("both")
    query = pipeline.input(Query)
    words, vectors = pipeline.add(BM25(index), query), pipeline.add(Dense(index, encoder=HashEncoder(8)), query)
    pipeline.output(words=words, vectors=vectors, both=pipeline.add(Fuse(), words, vectors))
    return pipeline


def test_what_is_searched_is_what_is_stored(index: str) -> None:
    made, encoder = documents(12), HashEncoder(8)
    build(made, index)
    query = Query("volcano number8", filters={"year": {"gte": 2003}})
    result = _pipeline(index).run(Batch([query]))
    texts = [f"{d.title}\n{d.text}" for d in made]
    scores = encoder.encode_passages(texts) @ encoder.encode_queries([query.text])[0]
    order = [i for i in np.argsort(-scores).tolist() if i >= 3]
    ranking = result["vectors"][0]
    assert [hit.passage.document_id for hit in ranking] == [f"d{i}" for i in order]
    np.testing.assert_allclose(ranking.scores, scores[order], atol=1e-6)
    assert result["words"][0].top(1).passages()[0].document_id == "d8"
    assert all(hit.passage.metadata["year"] >= 2003 for hit in result["both"][0])
    again = open_store(ranking.store.uri)
    assert again.fingerprint == ranking.store.fingerprint
    assert json.loads(json.dumps(ranking.to_dict()))["store"]["uri"] == index


def test_views_follow_the_store(index: str) -> None:
    build(documents(6), index)
    delete_documents(index, ["d2"])
    build([Document("late", "latecomer honey")], index)
    with _pipeline(index) as pipeline:
        found = pipeline.run("latecomer number2")
        assert [hit.passage.document_id for hit in found["words"]] == ["late"]
        assert sorted(hit.passage.document_id for hit in found["vectors"]) == ["d0", "d1", "d3", "d4", "d5", "late"]
