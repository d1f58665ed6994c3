from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from regard.indexers import build_index, delete_documents
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.locks import locked
from regard.indexers.views import open_view, parse_view
from regard.rag import Document
from regard.rag.dag.scope import Scope
from regard.rag.errors import (
    ConfigError,
    DimensionMismatch,
    EmptyCorpusError,
    FingerprintMismatch,
    IndexFormatError,
    IndexNotFound,
    MissingDependency,
    ModelNotFound,
    StageError,
    StorageError,
)
from regard.rag.models.encoding import Encoder
from regard.rag.parts import part

Content = list[tuple[Any, ...]]


def _content(path: Path) -> Content:
    """Every passage of an index with its row and vector bytes, in order."""
    store = LanceStore(path)
    rows = store.rows
    if not len(rows):
        return []
    vectors = [np.concatenate([*store.vectors(name)]) for name in store.encoders]
    return [(int(row), p.id, p.text, p.start, p.end, *(v[i].tobytes() for v in vectors))
            for i, (row, p) in enumerate(zip(rows, store.passages(rows), strict=True))]


def _documents(n: int, words: int = 30) -> list[Document]:
    draw = random.Random(3)
    vocabulary = [f"w{i}" for i in range(500)]
    return [Document(f"d{i}", " ".join(draw.choices(vocabulary, k=words)) + ".", f"title {i}", {"i": i})
            for i in range(n)]


def _build(documents: Any, path: Path, encoder: Any, **more: Any) -> Any:
    return build_index(documents, path, encoder=encoder, chunker=more.pop("chunker", "whole"), progress=False, **more)


def test_a_rerun_encodes_nothing_and_changes_nothing(tmp_path: Path, hash_encoder: Any) -> None:
    encoder, documents = hash_encoder(8), _documents(50)
    first = _build(documents, tmp_path, encoder)
    assert (first.added, first.passages, encoder.encoded) == (50, 50, 50)
    before, version = _content(tmp_path), LanceStore(tmp_path).version
    again = _build(documents, tmp_path, encoder)
    assert (again.unchanged, again.passages, encoder.encoded) == (50, 0, 50)
    assert _content(tmp_path) == before
    assert LanceStore(tmp_path).version == version


def test_new_and_changed_documents_are_committed_together_and_views_follow(tmp_path: Path, hash_encoder: Any) -> None:
    encoder, documents = hash_encoder(8), _documents(20)
    _build(documents, tmp_path, encoder)
    documents[3] = Document("d3", "zebra entirely new")
    report = _build([*documents, Document("d20", "giraffe")], tmp_path, encoder)
    assert (report.added, report.updated, report.unchanged) == (1, 1, 19)
    store = LanceStore(tmp_path)
    assert len(store) == 21
    assert len(set(store.rows.tolist())) == 21
    lexical = open_view(store, parse_view("bm25"))
    rows, _ = lexical.search(["zebra", "giraffe"], 1)
    assert [p.document_id for p in store.passages(rows[:, 0])] == ["d3", "d20"]
    dense = open_view(store, parse_view("faiss:flat", "hash_encoder"))
    rows, scores = dense.search(encoder.encode_queries(["zebra entirely new"]), 1)
    assert store.passages(rows[0])[0].document_id == "d3"
    assert scores[0, 0] == pytest.approx(1, abs=1e-6)


def test_an_edited_document_encodes_only_what_changed(tmp_path: Path, hash_encoder: Any) -> None:
    text = " ".join(f"Sentence number {i} has some words." for i in range(12))
    encoder = hash_encoder(8)
    _build([Document("d", text)], tmp_path, encoder, chunker="sentences:8,overlap=0")
    before = encoder.encoded
    report = _build([Document("d", text.replace("number 7 has", "number seven got"))], tmp_path, encoder,
                    chunker="sentences:8,overlap=0")
    assert report.updated == 1
    assert encoder.encoded == before + 1
    assert report.reused == report.passages - 1


def test_equal_texts_are_encoded_once(tmp_path: Path, hash_encoder: Any) -> None:
    encoder = hash_encoder(8)
    report = _build([Document(f"d{i}", "the same text") for i in range(10)], tmp_path, encoder)
    assert (encoder.encoded, report.reused, report.passages) == (1, 9, 10)


def test_a_document_that_loses_its_text_loses_its_passages(tmp_path: Path, hash_encoder: Any) -> None:
    encoder = hash_encoder(8)
    _build([Document("a", "x y z"), Document("b", "keep")], tmp_path, encoder)
    _build([Document("a", "  "), Document("b", "keep")], tmp_path, encoder)
    assert [p.document_id for p in LanceStore(tmp_path).passages(LanceStore(tmp_path).rows)] == ["b"]


def test_delete_removes_passages_and_never_reuses_their_rows(tmp_path: Path, hash_encoder: Any) -> None:
    encoder = hash_encoder(8)
    _build(_documents(5), tmp_path, encoder)
    assert delete_documents(tmp_path, ["d4", "it's not there"]).passages == 1
    assert open_view(LanceStore(tmp_path), parse_view("bm25")).rows.tolist() == [0, 1, 2, 3]
    _build([*_documents(4), Document("new", "text")], tmp_path, encoder)
    assert LanceStore(tmp_path).rows.tolist() == [0, 1, 2, 3, 5]


def test_documents_get_their_own_spans_title_and_metadata_back(tmp_path: Path, hash_encoder: Any) -> None:
    document = Document("it's \"odd\" ☃", "Größe. Ünïcode 🎉 works. 漢字。", "T", {"a": [1, {"b": None}]})
    _build([document], tmp_path, hash_encoder(8), chunker="sentences:4,overlap=0")
    passages = LanceStore(tmp_path).passages(LanceStore(tmp_path).rows)
    assert all(p.text == document.text[p.start:p.end] and p.title == "T" and p.metadata["a"] == [1, {"b": None}]
               for p in passages)
    assert {p.document_id for p in passages} == {document.id}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=3),
                          st.text(max_size=40)),
                min_size=1, max_size=8))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, hash_encoder: Any,
                           pairs: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("any")
    report = _build([Document(key, text) for key, text in pairs], path, hash_encoder(4), views=[])
    first = dict(reversed(pairs))
    expected = {key: text.strip() for key, text in first.items() if text.strip()}
    store = LanceStore(path)
    assert {p.document_id: p.text for p in store.passages(store.rows)} == expected
    assert report.skipped == len(pairs) - len(expected)


def test_lone_surrogates_are_replaced_one_for_one(tmp_path: Path, hash_encoder: Any) -> None:
    _build([Document("a", "x\ud800y\udfffz")], tmp_path, hash_encoder(4))
    assert LanceStore(tmp_path).passages([0])[0].text == "x�y�z"


# -- a second encoder -------------------------------------------------------------------


def test_an_encoder_is_added_to_what_is_there_and_to_what_comes(tmp_path: Path, hash_encoder: Any) -> None:
    class Unnamed(hash_encoder):  # type: ignore[misc]  # a fixture
        """Defined in a function, so that no later process could find it."""

    class Second(hash_encoder):  # type: ignore[misc]  # a fixture
        name = "second"

    _build(_documents(10), tmp_path, Unnamed(8), views=["bm25"])
    second = Second(4, salt="other")
    # the first encoder is a stub that no name finds, so the job must not go on without it
    with pytest.raises(ConfigError):
        _build(_documents(12), tmp_path, second)
    assert LanceStore(tmp_path).encoders.keys() == {"hash_encoder"}


def test_adding_an_encoder_goes_on_where_it_was_killed(facts: list[Document], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.indexers.jobs import columns
    from regard.indexers.stores.lance.pending import LancePending

    build_index(facts, tmp_path, encoder="minilm", chunker="whole", progress=False)
    monkeypatch.setattr(columns, "_BLOCK", 2)
    original, calls = LancePending.append, []

    def dies(self: Any, vectors: Any) -> None:
        calls.append(len(vectors))
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, vectors)

    monkeypatch.setattr(LancePending, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        build_index(facts, tmp_path, encoder="bge-small", progress=False)
    assert LanceStore(tmp_path).encoders.keys() == {"minilm"}
    build_index(facts, tmp_path, encoder="bge-small", progress=False)
    assert sum(calls) == len(facts) + 2  # only the block that was lost is encoded again
    store = LanceStore(tmp_path)
    assert store.encoders.keys() == {"minilm", "bge_small"}
    with Scope() as scope:
        bge = scope.open(part(Encoder, "bge-small"))
        expected = bge.encode_passages([p.full_text for p in store.passages(store.rows)])
    assert np.allclose(np.concatenate([*store.vectors("bge_small")]), expected, atol=1e-5)
    report = build_index([*facts, Document("new", "A new fact.")], tmp_path, progress=False)
    assert report.encoded == 2  # one passage, both encoders


# -- killed at any moment ---------------------------------------------------------------

KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import HashEncoder
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("job_test", {here!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
class Slow(HashEncoder):
    def encode_passages(self, texts):
        print("block", flush=True)
        time.sleep(0.02)
        return super().encode_passages(texts)
print("ready", flush=True)
module._build(module._documents(400), Path(sys.argv[1]), Slow(16), shard_passages=16, views=["faiss:flat", "bm25"])
print("done", flush=True)
"""


def _start_job(path: Path) -> subprocess.Popen[str]:
    code = KILLED.format(tests=str(Path(__file__).parents[2]), here=__file__)
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_killed_at_ten_random_moments_a_rerun_ends_as_if_undisturbed(tmp_path: Path, hash_encoder: Any) -> None:
    undisturbed = tmp_path / "undisturbed"
    _build(_documents(400), undisturbed, hash_encoder(16), shard_passages=16, views=["faiss:flat", "bm25"])
    expected = _content(undisturbed)
    draw, killed, partial = random.Random(), tmp_path / "killed", 0
    for kill in range(10):
        job = _start_job(killed)
        assert job.stdout is not None
        for _ in range(draw.randint(0, 4) if kill
                       else 3):  # some blocks further (the machine may be busy: the clock says nothing),
            job.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.06))  # in the middle of an encoding, a commit, or what comes before and after
        job.send_signal(signal.SIGKILL)
        job.wait()
        if (killed / "passages.lance").exists():
            content = _content(killed)
            assert content == expected[:len(content)]  # nothing committed is lost, nothing is there twice
            partial += 0 < len(content) < len(expected)
    job = _start_job(killed)
    job.communicate()
    assert job.returncode == 0
    assert _content(killed) == expected
    assert partial > 0, "no kill fell into the middle of the job: the test has shown nothing"
    for spec in ("bm25", "faiss:flat@hash_encoder"):
        assert open_view(LanceStore(killed), parse_view(spec)).rows.tolist() == LanceStore(undisturbed).rows.tolist()
    assert not list((killed / "views").rglob("new-*"))


# -- bad input --------------------------------------------------------------------------


def test_an_empty_corpus_is_an_error_and_makes_no_index(tmp_path: Path, hash_encoder: Any) -> None:
    with pytest.raises(EmptyCorpusError, match="no document"):
        _build([], tmp_path / "index", hash_encoder(4))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_bytes(b"\x00\x01binary")
    with pytest.raises(EmptyCorpusError, match=r"1 skipped: .*x\.txt"):
        _build(tmp_path / "folder", tmp_path / "index", hash_encoder(4))
    assert not (tmp_path / "index").exists()


def test_duplicate_ids_are_counted_skips_and_the_first_wins(tmp_path: Path, hash_encoder: Any) -> None:
    documents = [Document("a", "first"), Document("b", "other"), Document("a", "second"), Document("b", "other")]
    report = _build(documents, tmp_path, hash_encoder(4))
    assert report.skipped == 2
    assert [s.reason for s in report.skips] == ["duplicate document id with another text; the first one is kept",
                                                "duplicate document id with the same text"]
    assert [p.text for p in LanceStore(tmp_path).passages([0, 1])] == ["first", "other"]


def test_broken_json_on_line_17_is_skipped_and_named(tmp_path: Path, hash_encoder: Any) -> None:
    lines = [json.dumps({"_id": str(i), "text": f"text {i}"}) for i in range(1, 31)]
    lines[16] = '{"_id": "17", "text": "never closed'
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    report = _build(tmp_path / "c.jsonl", tmp_path / "index", hash_encoder(4))
    assert (report.passages, report.skipped) == (29, 1)
    assert "17" in str(report.skips[0].location)


def test_binary_files_in_a_folder_are_skipped(tmp_path: Path, hash_encoder: Any) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("Good text.")
    (folder / "bad.txt").write_bytes(bytes(range(256)) * 10)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no pdf at all")
    report = _build(folder, tmp_path / "index", hash_encoder(4))
    assert (report.passages, report.skipped) == (1, 2)


def test_a_document_longer_than_any_window_is_chunked_whole(tmp_path: Path, hash_encoder: Any) -> None:
    text = "word " * 200_000
    report = _build([Document("long", text)], tmp_path, hash_encoder(4), chunker="tokens:256,overlap=0", views=[])
    passages = LanceStore(tmp_path).passages(LanceStore(tmp_path).rows)
    assert report.passages == len(passages) > 700
    assert max(len(p.text.split()) for p in passages) <= 256
    assert sum(len(p.text.split()) for p in passages) == 200_000


def test_a_passage_longer_than_the_encoders_window_is_counted(tmp_path: Path) -> None:
    documents = [Document("a", "word " * 400), Document("b", "short")]
    report = build_index(documents, tmp_path, encoder="minilm", chunker="whole", progress=False)
    assert report.truncated == 1


def test_vectors_of_the_wrong_dimension_are_refused_before_they_are_stored(tmp_path: Path, hash_encoder: Any) -> None:
    with pytest.raises(DimensionMismatch, match=r"\(3, 5\).* 8 components"):
        _build(_documents(3), tmp_path, hash_encoder(8, output=5))
    assert len(LanceStore(tmp_path)) == 0


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path, hash_encoder: Any) -> None:
    class Broken(hash_encoder):  # type: ignore[misc]  # a fixture
        def encode_passages(self, texts: Any) -> Any:
            return np.full((len(texts), 8), np.nan, np.float32)

    with pytest.raises(StageError, match="not finite"):
        _build(_documents(3), tmp_path, Broken(8))


def test_another_encoder_under_the_same_name_shows_both_fingerprints(tmp_path: Path, hash_encoder: Any) -> None:
    _build(_documents(3), tmp_path, hash_encoder(8))
    with pytest.raises(FingerprintMismatch) as caught:
        _build(_documents(4), tmp_path, hash_encoder(8, salt="retrained"))
    assert "'salt': ''" in str(caught.value)
    assert "'salt': 'retrained'" in str(caught.value)
    assert len(LanceStore(tmp_path)) == 3


def test_another_chunker_is_refused(tmp_path: Path, hash_encoder: Any) -> None:
    _build(_documents(3), tmp_path, hash_encoder(8))
    with pytest.raises(FingerprintMismatch, match="chunker"):
        _build(_documents(3), tmp_path, hash_encoder(8), chunker="tokens:16,overlap=0")


def test_a_view_that_the_index_cannot_hold_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a dense encoder"):
        _build(_documents(3), tmp_path / "i", None, views=["faiss:flat"])
    with pytest.raises(ConfigError, match="nothing is registered as 'bm26'"):
        _build(_documents(3), tmp_path / "i", None, views=["bm26"])
    assert not (tmp_path / "i").exists()


def test_without_faiss_both_extras_are_named(tmp_path: Path, hash_encoder: Any,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"regard\[cpu\].*regard\[gpu\]"):
        _build(_documents(3), tmp_path / "i", hash_encoder(8))
    assert not (tmp_path / "i").exists()


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound, match="no index"):
        LanceStore(tmp_path / "nowhere")
    (tmp_path / "passages.lance").mkdir()
    (tmp_path / "passages.lance" / "junk").write_text("x")
    with pytest.raises(IndexFormatError, match="cannot be read"):
        LanceStore(tmp_path)
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "other" / "passages.lance"))
    with pytest.raises(IndexFormatError, match="no Regard index"):
        LanceStore(tmp_path / "other")


def test_two_jobs_cannot_write_at_once(tmp_path: Path, hash_encoder: Any) -> None:
    with locked(tmp_path), pytest.raises(StorageError, match="another job"):
        _build(_documents(3), tmp_path, hash_encoder(4))


@pytest.fixture
def limited_files() -> Iterator[Callable[[int], None]]:
    """Let files of this process grow to so many bytes only: writes then fail as on a full disk, with an error from the
    kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_loses_nothing_and_a_rerun_completes(tmp_path: Path, hash_encoder: Any, limited_files: Any) -> None:
    documents = _documents(60)
    noise = random.Random(1).randbytes(300_000).hex()  # Lance compresses text that repeats
    documents[40] = Document("d40", noise)  # its commit is the first that does not fit
    limited_files(200_000)
    with pytest.raises(StorageError, match="everything committed before is safe") as caught:
        _build(documents, tmp_path / "i", hash_encoder(8), shard_passages=10)
    limited_files(resource.RLIM_INFINITY)
    assert "run the same command again" in (caught.value.hint or "")
    assert len(LanceStore(tmp_path / "i")) == 40
    _build(documents, tmp_path / "i", hash_encoder(8), shard_passages=10)
    _build(documents, tmp_path / "whole", hash_encoder(8), shard_passages=10)
    assert _content(tmp_path / "i") == _content(tmp_path / "whole")


def test_a_disk_that_is_full_for_a_view_leaves_the_passages(tmp_path: Path, hash_encoder: Any,
                                                            limited_files: Any) -> None:
    documents = _documents(200, words=5)
    limited_files(60_000)
    with pytest.raises(StorageError, match="view"):
        _build(documents, tmp_path, hash_encoder(384), shard_passages=20, views=["faiss:flat"])
    limited_files(resource.RLIM_INFINITY)
    assert len(LanceStore(tmp_path)) == 200
    assert not list((tmp_path / "views").rglob("new-*"))
    _build(documents, tmp_path, hash_encoder(384), shard_passages=20)
    assert open_view(LanceStore(tmp_path), parse_view("faiss:flat@hash_encoder")).index.ntotal == 200


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path, hash_encoder: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be made"):
        _build(_documents(3), tmp_path / "file" / "i", hash_encoder(4))


def test_a_lexical_index_stays_lexical(tmp_path: Path) -> None:
    _build(_documents(3), tmp_path, None)
    report = build_index(_documents(4), tmp_path, progress=False)
    assert (report.added, report.encoded, report.views) == (1, 0, ["bm25"])
    assert not LanceStore(tmp_path).encoders


def test_an_index_has_its_encoder_from_its_first_version_on(tmp_path: Path, hash_encoder: Any) -> None:
    _build(_documents(3), tmp_path, hash_encoder(8))
    # a kill right after it was made loses nothing
    assert LanceStore(tmp_path, version=1).encoders.keys() == {"hash_encoder"}


def test_bm25_without_text_is_refused_before_the_work(tmp_path: Path, hash_encoder: Any) -> None:
    encoder = hash_encoder(8)
    with pytest.raises(ConfigError, match="stores none"):
        _build(_documents(3), tmp_path / "i", encoder, text=False, views=["bm25"])
    assert (encoder.encoded, (tmp_path / "i").exists()) == (0, False)
    assert _build(_documents(3), tmp_path / "i", encoder, text=False).views == ["flat:hash_encoder"]


def test_without_a_source_only_views_are_added(tmp_path: Path, hash_encoder: Any) -> None:
    with pytest.raises(IndexNotFound, match="no source"):
        build_index(None, tmp_path / "i", encoder=None, progress=False)
    _build(_documents(5), tmp_path / "i", None, views=[])
    report = build_index(None, tmp_path / "i", views=["bm25"], progress=False)
    assert (report.documents, report.total_passages, report.views) == (0, 5, ["bm25"])
    assert open_view(LanceStore(tmp_path / "i"), parse_view("bm25")).rows.tolist() == [0, 1, 2, 3, 4]


def test_an_encoder_that_cannot_be_loaded_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no/such-model"):
        build_index(_documents(3), tmp_path / "i", encoder="no/such-model", chunker="whole", progress=False)
    assert not (tmp_path / "i").exists()
