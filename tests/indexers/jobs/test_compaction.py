"""Deleting, compacting and purging: what goes, what stays, and who is in the way."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index, compact, delete_documents
from regard.indexers.jobs import sources
from regard.indexers.jobs.columns import encode_existing
from regard.indexers.stores import unfinished
from regard.indexers.stores.integrity import sealed
from regard.indexers.stores.lance import digests, leases
from regard.indexers.stores.lance.leases import versions
from regard.indexers.stores.lance.store import DATASET, LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.indexers.stores.unfinished import UnfinishedJob
from regard.indexers.views import open_view, parse_view, view_kinds
from regard.rag import Document
from regard.rag.app.cli import app
from regard.rag.errors import ConfigError, DeletionRefused, IndexNotFound, StorageError
from typer.testing import CliRunner

SECRET = Document("zq-secret-id", "Zanzibarquux betrays the plan. Wombatulous details follow here.",
                  "Zqtitle Xylobrand",
                  {"zqfield": "Quuzmeta", "n": 1})
PLANTED = ("zq-secret", "zanzibarquux", "wombatul", "zqtitle", "xylobrand", "quuzmeta", "betray")
"""What only ``SECRET`` holds, as words and as stems, in lower case."""


def _documents(n: int) -> list[Document]:
    return [Document(f"d{i}", f"text number {i} about subject {i % 7}", f"Title {i}", {"year": i}) for i in range(n)]


def _build(documents: Any, path: Path, encoder: Any, **more: Any) -> Any:
    return build_index(documents, path, encoder=encoder, chunker="whole", progress=False, **more)


@pytest.fixture
def index(tmp_path: Path, hash_encoder: Any) -> Path:
    """Five commits of plain documents and ``SECRET`` among them, with a dense and a BM25 view."""
    path = tmp_path / "index"
    documents = _documents(25)
    documents.insert(7, SECRET)
    for start in range(0, 26, 6):
        _build(documents[start:start + 6], path, hash_encoder(8))
    return path


def _content(path: Path, version: int | None = None) -> dict[int, tuple[Any, ...]]:
    """Everything that the index holds, by row, in the dataset's order."""
    table = lance.dataset(str(path / DATASET), version=version).to_table()
    return {record["row"]: tuple(map(str, record.values())) for record in table.to_pylist()}


def _planted_in(path: Path) -> list[str]:
    """Where a planted word is found: in a file's bytes or name, or in what Lance reads of any version (its files may be
    compressed)."""
    found = []
    for file in path.rglob("*"):
        seen = file.name.lower().encode() + (file.read_bytes().lower() if file.is_file() else b"")
        found += [f"{file.relative_to(path)}: {word}" for word in PLANTED if word.encode() in seen]
    for dataset in (folder for folder in path.rglob("*.lance") if folder.is_dir()):
        for version in lance.dataset(str(dataset)).versions():
            opened = lance.dataset(str(dataset), version=version["version"])
            text = f"{opened.to_table().drop_columns([c for c in opened.schema.names if c.startswith('vector')]).to_pylist()}".lower()  # noqa: E501
            found += [f"{dataset.name} version {version['version']}: {word}" for word in PLANTED if word in text]
    return found


def _files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def _search(path: Path, text: str) -> list[int]:
    rows, _ = open_view(LanceStore(path), parse_view("bm25")).search([text], 5)
    return [row for row in rows[0].tolist() if row >= 0]


# -- delete -----------------------------------------------------------------------------


def test_deleted_documents_are_not_found_and_unknown_ids_make_no_version(index: Path) -> None:
    before = LanceStore(index).version
    report = delete_documents(index, ["nobody", "it's \"nobody\" either"])
    assert (report.documents, report.passages, report.unknown) == (0, 0, 2)
    assert LanceStore(index).version == before
    assert _search(index, "zanzibarquux")
    report = delete_documents(index, [SECRET.id, "nobody", SECRET.id])
    assert (report.documents, report.passages, report.unknown) == (1, 1, 1)
    assert not _search(index, "zanzibarquux")
    assert SECRET.id not in LanceStore(index).document_ids(LanceStore(index).rows)


def test_all_documents_of_a_source_are_deleted(tmp_path: Path) -> None:
    index = tmp_path / "i"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{name}-{i}.txt").write_text(f"text {name} {i}")
        build_index(tmp_path / name, index, encoder=None, chunker="whole", progress=False)
    with pytest.raises(IndexNotFound, match="nothing in this index is known to come from") as failed:
        delete_documents(index, source=tmp_path / "three")
    assert str(tmp_path / "two") in str(failed.value)
    shutil.rmtree(tmp_path / "two")  # a source may be deleted after its folder is gone
    report = delete_documents(index, ["one-1.txt"], source=tmp_path / "two")
    assert (report.documents, report.unknown) == (4, 0)
    assert sorted(LanceStore(index).document_ids(LanceStore(index).rows)) == ["one-0.txt", "one-2.txt"]


def test_a_folder_without_an_index_is_named_and_stays_as_it_is(tmp_path: Path) -> None:
    for call in (lambda: delete_documents(tmp_path / "no", ["a"]), lambda: compact(tmp_path / "no")):
        with pytest.raises(IndexNotFound):
            call()
    assert not (tmp_path / "no").exists()


def test_beside_another_job_nothing_is_deleted_or_compacted(index: Path) -> None:
    with locked(index):
        for call in (lambda: delete_documents(index, ["d1"]), lambda: compact(index)):
            with pytest.raises(StorageError, match="another job is writing"):
                call()


# -- compact ----------------------------------------------------------------------------


def test_a_compaction_changes_no_passage_and_no_order_and_takes_what_is_not_needed(index: Path) -> None:
    delete_documents(index, ["d3", "d17"])
    before, files, old = _content(index), _files(index / DATASET), LanceStore(index).version
    report = compact(index)
    assert list(_content(index).items()) == list(before.items())
    assert (report.fragments_before, report.fragments_after) == (5, 1)
    assert report.bytes_after < report.bytes_before
    # Lance reserves the new fragments' numbers in one of the two
    assert [*versions(lance.dataset(str(index / DATASET)))] == [old + 2]
    left = _files(index / DATASET)
    assert not {name for name in left if name.startswith(("data/", "_deletions/"))} & files
    assert sum(name.startswith("data/") for name in left) == 1
    noted = digests.Ledger(index / DATASET).digests().keys()
    assert {name for name in noted if name.startswith("data/")} == {name for name in left if name.startswith("data/")}
    assert noted <= left
    again = compact(index)  # nothing is left to do
    assert (again.bytes_after, again.versions_removed, LanceStore(index).version) == (report.bytes_after, 0, old + 2)
    assert _files(index / DATASET) == left


def test_every_noted_digest_of_a_compacted_index_is_right(index: Path) -> None:
    compact(index)
    noted = digests.Ledger(index / DATASET).digests()
    (data,) = (index / DATASET / "data").iterdir()
    assert noted[f"data/{data.name}"] == digests.Digest.of(data)


def test_views_are_carried_over_and_not_built_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LanceStore(index)
    before = {file.name: file.stat().st_ino for file in (index / "views").rglob(f"{store.version}/*")
              if file.name != "view.json"}
    described = {file.parents[1].name: json.loads(file.read_bytes()) for file in index.rglob("view.json")}
    store.close()
    for kind in ("bm25.BM25Index", "faiss_view.FaissKind"):
        monkeypatch.setattr(f"regard.indexers.views.{kind}.build", lambda *_: pytest.fail("a view was built"))
    compact(index)
    store = LanceStore(index)
    after = {file.name: file.stat().st_ino for file in (index / "views").rglob(f"{store.version}/*")
             if file.name != "view.json"}
    assert after == before
    assert len(described) == 2
    for file in index.rglob("view.json"):
        old = described[file.parents[1].name]
        assert json.loads(file.read_bytes()) == sealed({**old, "version": store.version, "commit": store.commit},
                                                       file.name)
    assert open_view(store, parse_view("bm25")).rows.tolist() == store.rows.tolist()


def test_a_view_is_carried_over_after_a_kill_between_the_commit_and_it(index: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("regard.indexers.jobs.compaction._update_views", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            compact(index)
    monkeypatch.setattr("regard.indexers.views.bm25.BM25Index.build", lambda *_: pytest.fail("a view was built"))
    assert _search(index, "zanzibarquux")  # a search carries it over as well
    compact(index)
    assert [*versions(lance.dataset(str(index / DATASET)))] == [LanceStore(index).version]


def test_a_view_is_not_carried_over_a_change(index: Path) -> None:
    """The same rows in the same order, but one has another text."""
    with closing(LanceStore(index)) as store:
        rows, commit = store.rows, store.commit
    dataset = lance.dataset(str(index / DATASET))
    held = dataset.to_table().to_pydict()
    held["text"] = ["Quite another wording." if "Zanzibarquux" in text else text for text in held["text"]]
    lance.write_dataset(pa.table(held, schema=dataset.schema), str(index / DATASET), mode="overwrite")
    compact(index)
    with closing(LanceStore(index)) as store:
        assert np.array_equal(store.rows, rows)
        assert not store.unchanged_since(commit)
    assert _search(index, "wording")
    assert not _search(index, "zanzibarquux")


def test_numbers_of_deleted_passages_are_never_used_again(index: Path, hash_encoder: Any) -> None:
    gone = [f"d{i}" for i in range(20, 25)]
    highest = int(LanceStore(index).rows.max())
    delete_documents(index, gone, purge=True)
    compact(index, purge=True)
    _build([Document("new", "a new text")], index, hash_encoder(8))
    assert int(LanceStore(index).rows.max()) == highest + 1


def test_tagged_versions_and_those_that_are_asked_for_stay(index: Path) -> None:
    dataset = lance.dataset(str(index / DATASET))
    dataset.tags.create("release", 3)
    tagged = _content(index, 3)
    newest = int(dataset.version)
    report = compact(index, keep=3)
    assert [*versions(lance.dataset(str(index / DATASET)))] == [3, newest, newest + 1, newest + 2]
    assert "the tag 'release' names version 3" in report.kept
    assert _content(index, 3) == tagged
    compact(index)
    assert [*versions(lance.dataset(str(index / DATASET)))] == [3, newest + 2]
    assert _content(index, 3) == tagged


_STEPS = st.one_of(st.tuples(st.just("add"), st.integers(0, 12), st.integers(0, 3)),
                   st.tuples(st.just("delete"), st.integers(0, 12)),
                   st.tuples(st.sampled_from(["compact", "purge"])))


@settings(max_examples=12)
@given(steps=st.lists(_STEPS, min_size=2, max_size=10))
def test_any_order_of_changes_and_compactions_is_that_of_a_dictionary(steps: list[tuple[Any, ...]],
                                                                      tmp_path_factory: Any) -> None:
    index = tmp_path_factory.mktemp("model") / "i"
    held: dict[str, str] = {"first": "the first"}
    build_index([Document("first", "the first")], index, encoder=None, chunker="whole", views=["bm25"], progress=False)
    given_out: dict[int, str] = {}
    for kind, *what in steps:
        if kind == "add":
            name, text = f"d{what[0]}", f"word{what[0]} in edition {what[1]}"
            build_index([Document(name, text)], index, encoder=None, progress=False)
            held[name] = text
        elif kind == "delete":
            delete_documents(index, [f"d{what[0]}"])
            held.pop(f"d{what[0]}", None)
        else:
            compact(index, purge=kind == "purge")
        with closing(LanceStore(index)) as store:
            passages = store.passages(store.rows)
            assert {p.document_id: p.text for p in passages} == held
            for row, passage in zip(store.rows.tolist(), passages, strict=True):
                assert given_out.setdefault(row, passage.text) == passage.text
            view = open_view(store, parse_view("bm25"))
            assert view.rows.tolist() == store.rows.tolist()
            for passage in passages:
                found = view.search([passage.text], len(passages))[0][0].tolist()
                assert passage in store.passages([row for row in found if row >= 0])


def test_vectors_on_their_way_into_the_index_survive_a_compaction(index: Path, hash_encoder: Any,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(hash_encoder):  # type: ignore[misc]  # a fixture
        name = "other"

    new = Other(4, salt="other")

    def breaks(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add_encoder", breaks)
        with pytest.raises(KeyboardInterrupt):
            _add_encoder(index, new)
    assert new.encoded == 26
    compact(index)
    _add_encoder(index, new)
    assert new.encoded == 26
    store = LanceStore(index)
    assert np.array_equal(np.concatenate([*store.vectors("other")]),
                          new.encode_passages([p.full_text for p in store.passages(store.rows)]))


def _add_encoder(path: Path, encoder: Any) -> None:
    with locked(path):
        writer = StoreWriter(path, chunker=LanceStore(path).manifest["chunker"])
        encode_existing(writer, "other", encoder.description(), encoder, progress=False, commit_seconds=30)


# -- readers ----------------------------------------------------------------------------


def test_what_an_open_reader_uses_stays_until_it_closes(index: Path) -> None:
    reader = LanceStore(index)
    passages = reader.passages(reader.rows)
    done = _in_another_process(index, f"delete_documents({str(index)!r}, [{SECRET.id!r}]); "
                                      f"print(compact({str(index)!r}).kept)")
    assert f"reads version {reader.version}" in done
    assert reader.passages(reader.rows) == passages
    assert reader.version in versions(lance.dataset(str(index / DATASET)))
    del reader
    gc.collect()
    assert compact(index).kept == []
    assert len(versions(lance.dataset(str(index / DATASET)))) == 1


def test_a_reader_in_another_process_is_named_and_its_death_frees_the_version(index: Path) -> None:
    code = f"store = LanceStore({str(index)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c",
                           _IMPORTS + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == b"open\n"
        before = _content(index)
        with pytest.raises(DeletionRefused, match=f"process {reader.pid} .* reads version"):
            delete_documents(index, [SECRET.id], purge=True)
        assert _content(index) == before  # it was refused before anything was deleted
        reader.kill()
    assert delete_documents(index, [SECRET.id], purge=True).documents == 1
    assert _planted_in(index) == []


def test_a_purge_waits_for_readers_as_long_as_it_may(index: Path) -> None:
    code = f"store = LanceStore({str(index)!r}); print('open', flush=True); import time; time.sleep(.7)"
    with subprocess.Popen([sys.executable, "-c", _IMPORTS + code], stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == b"open\n"
        start = time.perf_counter()
        with pytest.raises(DeletionRefused):
            delete_documents(index, [SECRET.id], purge=True, wait=0.2)
        assert 0.2 <= time.perf_counter() - start < 0.6
        delete_documents(index, [SECRET.id], purge=True, wait=30)
    assert _planted_in(index) == []


def test_a_tag_refuses_a_purge_at_once(index: Path) -> None:
    lance.dataset(str(index / DATASET)).tags.create("release", 3)
    start = time.perf_counter()
    with pytest.raises(DeletionRefused, match="the tag 'release' names version 3"):
        delete_documents(index, [SECRET.id], purge=True, wait=30)
    assert time.perf_counter() - start < 5
    assert _search(index, "zanzibarquux")
    lance.dataset(str(index / DATASET)).tags.delete("release")
    delete_documents(index, [SECRET.id], purge=True)
    assert _planted_in(index) == []


def test_a_lease_costs_little_and_leaves_nothing_behind(index: Path) -> None:
    before = _files(index)
    stores = [LanceStore(index) for _ in range(5)]
    assert _files(index) == before
    start = time.perf_counter()
    for _ in range(100):
        store = LanceStore(index)
        assert store._lease is not None
        store.close()
        store.close()
    assert (time.perf_counter() - start) / 100 < 0.01  # 0.4 ms, of which the lease takes 0.02
    del stores


def test_a_folder_that_may_only_be_read_can_be_read(index: Path) -> None:
    for folder in [index, *index.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    try:
        done = _in_another_process(index, f"s = LanceStore({str(index)!r}); print(len(s.passages(s.rows)), s._lease is "
                                          f"not None)")
        assert done.split() == ["26", "True"]
    finally:
        for folder in [index, *index.rglob("*")]:
            folder.chmod(0o755 if folder.is_dir() else 0o644)


@pytest.mark.parametrize("before", ["_take", "_lock_shared"])
def test_a_version_that_goes_while_it_is_opened_is_opened_anew(before: str, index: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole compaction fits between Lance's opening of a version and our lease on it, and between the lease's file
    and its lock."""
    original, calls = getattr(leases, before), list[int]()

    def late(argument: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            compact(index)
        return original(argument)

    monkeypatch.setattr(leases, before, late)
    old = int(lance.dataset(str(index / DATASET)).version)
    with closing(LanceStore(index)) as store:
        assert store.version > old
        assert len(store.passages(store.rows)) == 26
        assert delete_documents(index, ["d1"]).documents == 1
        # the lease is on the new one
        assert any(f"reads version {store.version}" in reason for reason in compact(index).kept)


# -- purge ------------------------------------------------------------------------------


def test_what_was_planted_is_found_where_it_should_be(index: Path) -> None:
    """The search that the purge's tests rely on finds each planted word, and what a plain deletion leaves."""
    assert {line.split(": ")[1] for line in _planted_in(index)} == set(PLANTED)
    delete_documents(index, [SECRET.id])
    left = _planted_in(index)
    assert {line.split(": ")[1] for line in left} == set(PLANTED)
    assert any(line.startswith("passages.lance/_transactions") for line in left)  # the filter names the id


def test_after_a_purge_no_byte_is_left(index: Path, tmp_path: Path, hash_encoder: Any) -> None:
    secret_folder = tmp_path / "zq-secret-folder"
    secret_folder.mkdir()
    (secret_folder / "zqtitle.txt").write_text("Zanzibarquux again, and nothing else betrays it.")
    _build(secret_folder, index, hash_encoder(8))
    unfinished._write(index, [UnfinishedJob("regard index zq-secret-folder", [str(secret_folder)], ["bm25"])])
    (index / DATASET / "data" / "0101orphan.lance").write_bytes(b"zanzibarquux of a dead writer")
    (index / DATASET / "_transactions" / ".tmpA1b2C3").write_bytes(b"zq-secret-id, said by a writer that died")
    (index / DATASET / "_versions" / "18446744073709551605.manifest#1").write_bytes(b"zq-secret-id")
    (index / "views" / "bm25" / "new-dead").mkdir()
    (index / "views" / "bm25" / "new-dead" / "vocab.index.json").write_text('{"zanzibarquux": 1}')
    (index / "views" / "bm25" / "new-dead-replaced").mkdir()
    (index / "unfinished.json.new").write_text("zq-secret-folder")
    (index / "views" / "faiss-dead" / "pending-1").mkdir(parents=True)
    (index / "views" / "faiss-dead" / "pending-1" / "data.bin").write_bytes(b"zanzibarquux")
    old = {name for name in _files(index / DATASET) if name.startswith("data/")}
    assert delete_documents(index, [SECRET.id], source=secret_folder, purge=True).documents == 2
    assert _planted_in(index) == []
    assert not old & _files(index / DATASET)
    assert not (index / unfinished.FILE).exists()
    assert not {name.split("/", 1)[1].split(".")[0] for name in old} & _lance_names_in(index)
    store = LanceStore(index)
    assert len(store) == 25
    for view in ("bm25", "faiss:flat"):
        assert open_view(store, parse_view(view, "hash_encoder")).rows.tolist() == store.rows.tolist()
    before = _files(index), store.version
    store.close()
    compact(index, purge=True)  # idempotent
    assert (_files(index), LanceStore(index).version) == before


def test_nothing_of_other_histories_and_unfinished_views_is_left_beside_a_view_that_is_up_to_date(index: Path) -> None:
    delete_documents(index, [SECRET.id], purge=True)
    for name in ("pending-1", "999", "3"):
        (index / "views" / "bm25" / name).mkdir()
        (index / "views" / "bm25" / name / "data.bin").write_bytes(b"zanzibarquux")
    compact(index)
    compact(index, purge=True)
    assert _planted_in(index) == []
    assert len(_search(index, "subject")) == 5


def test_no_name_of_a_deleted_file_is_left(tmp_path: Path) -> None:
    """Nor of its source: ``sources.sqlite`` names both where two folders have files of one name."""
    index = tmp_path / "i"
    for name in ("a", "xylobrand"):
        (tmp_path / name).mkdir()
        for file in ("zq-secret.md", "zqtitle.md", "plain.md"):
            (tmp_path / name / file).write_text(f"{name} {file.removesuffix('.md')}")
    build_index([tmp_path / "a", tmp_path / "xylobrand"], index, encoder=None, chunker="whole", progress=False)
    assert "xylobrand/zq-secret.md" in LanceStore(index).document_ids(LanceStore(index).rows)
    delete_documents(index, ["zq-secret.md", "zqtitle.md"], source=tmp_path / "xylobrand", purge=True)
    assert _planted_in(index) == []
    assert build_index(tmp_path / "a", index, encoder=None, progress=False).added == 2


def _lance_names_in(path: Path) -> set[str]:
    return {file.stem for file in path.rglob("*.lance") if file.is_file()}


def test_a_document_that_fills_a_fragment_of_its_own_is_purged_as_well(tmp_path: Path, hash_encoder: Any) -> None:
    """Nothing is left to compact then, and the deletion is the newest commit."""
    index = tmp_path / "i"
    _build(_documents(3), index, hash_encoder(8))
    _build([SECRET], index, hash_encoder(8))
    delete_documents(index, [SECRET.id], purge=True)
    assert _planted_in(index) == []
    _build([SECRET], tmp_path / "alone", hash_encoder(8))
    delete_documents(tmp_path / "alone", [SECRET.id], purge=True)
    assert _planted_in(tmp_path / "alone") == []
    assert len(LanceStore(tmp_path / "alone")) == 0


def test_an_updated_document_leaves_nothing_of_its_older_text(index: Path, hash_encoder: Any) -> None:
    _build([Document(SECRET.id, "harmless now")], index, hash_encoder(8))
    assert "zanzibarquux" in {line.split(": ")[1] for line in _planted_in(index)}
    compact(index, purge=True)
    assert {line.split(": ")[1] for line in _planted_in(index)} == {"zq-secret"}  # the id is still the document's


def test_pending_vectors_of_what_is_purged_go(index: Path) -> None:
    home = index / "pending" / "other.lance"
    mark = json.dumps({"fingerprint": {}, "commit": LanceStore(index).commit})
    lance.write_dataset(pa.table({"vector": [[1.0]]}).replace_schema_metadata({"regard": mark}), str(home))
    delete_documents(index, [SECRET.id], purge=True)
    assert not home.exists()


def test_a_view_whose_model_is_gone_is_removed_by_a_purge_and_kept_by_a_compaction(index: Path,
                                                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: E501
    from regard.rag.errors import ModelNotFound

    def gone(*_: Any, **__: Any) -> None:
        raise ModelNotFound("it is gone")

    monkeypatch.setattr("regard.indexers.jobs.compaction.build_view", gone)
    compact(index)  # carried over: no model is needed
    assert len(list((index / "views").glob("*/*/view.json"))) == 2
    with locked(index):
        StoreWriter(index, chunker=LanceStore(index).manifest["chunker"]).delete(["d1"])
    assert compact(index).views_removed == []
    assert len(list((index / "views").glob("*/*/view.json"))) == 2
    delete_documents(index, [SECRET.id], purge=True)
    assert not list((index / "views").glob("*/*/view.json"))
    assert _planted_in(index) == []


_IMPORTS = "import sys; from regard.indexers import compact, delete_documents; from regard.indexers.stores.lance.store import LanceStore; "  # noqa: E501


def test_a_disk_that_is_full_for_a_while_costs_a_purge_no_view(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the view cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr("regard.indexers.jobs.compaction.build_view", full)
        with pytest.raises(StorageError):
            delete_documents(index, ["d3"], purge=True)
    assert delete_documents(index, ["d3"], purge=True).purged
    assert {kind.part_name() for kind in view_kinds(index)} == {"bm25", "flat"}


def _in_another_process(path: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", _IMPORTS + code], check=True, capture_output=True, text=True)
    return done.stdout


_KILLED = """
import os, sys
from regard.indexers import delete_documents
at, calls = int(sys.argv[2]), 0
CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree",
           "sqlite3.connect", "open"}
def hook(event, arguments):
    global calls
    reads = event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
    if event not in CHANGES or reads:
        return
    calls += 1
    if calls == at:
        os._exit(9)
import lance, lance.optimize
for owner, name in ((lance.LanceDataset, "commit"), (lance.LanceDataset, "cleanup_old_versions"),
                    (lance.optimize.Compaction, "commit")):
    def killed(*a, real=getattr(owner, name), **k):
        sys.audit("os.rename", name)
        done = real(*a, **k)
        sys.audit("os.rename", name)
        return done
    setattr(owner, name, staticmethod(killed) if name == "commit" else killed)
sys.addaudithook(hook)
delete_documents(sys.argv[1], sys.argv[3:], purge=True)
"""


@pytest.mark.slow
def test_a_purge_that_is_killed_anywhere_is_completed_by_the_same_call(index: Path, tmp_path: Path) -> None:
    at, killed = 1, 0
    while True:
        copy = tmp_path / "copy"
        shutil.copytree(index, copy)
        done = subprocess.run([sys.executable, "-c", _KILLED, str(copy), str(at), SECRET.id], check=False,
                              capture_output=True, text=True)
        assert done.returncode in (0, 9), done.stderr
        store = LanceStore(copy)  # a whole index at any time
        assert {p.document_id for p in store.passages(store.rows)} - {SECRET.id} == {f"d{i}" for i in range(25)}
        store.close()
        delete_documents(copy, [SECRET.id], purge=True)
        assert _planted_in(copy) == [], at
        assert len(_search(copy, "subject")) == 5
        assert len(LanceStore(copy)) == 25
        shutil.rmtree(copy)
        if done.returncode == 0:
            break
        killed += 1
        at += 1 if at < 12 else 3
    assert killed > 20


# -- command line -----------------------------------------------------------------------


def _run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_the_commands(index: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("d2\n\nnobody\n")
    made: Mapping[str, Any] = json.loads(_run("delete", str(index), "d1", "--from", str(listed), "--json").stdout)
    assert (made["documents"], made["unknown"], made["purged"]) == (2, 1, False)
    text = " ".join(_run("delete", str(index), SECRET.id).stdout.split())
    assert "1 documents deleted" in text
    assert "regard compact" in text
    made = json.loads(_run("compact", str(index), "--keep", "2", "--json").stdout)
    assert made["bytes_after"] > 0
    assert made["versions_removed"] > 0
    text = " ".join(_run("compact", str(index), "--purge").stdout.split())
    assert "older versions removed, purged" in text
    assert _planted_in(index) == []
    assert "cannot reach stage caches" in " ".join(_run("compact", "--help").stdout.replace("│", " ").split())
    with pytest.raises(ConfigError, match="nothing says what to delete"):
        _run("delete", str(index))
    with pytest.raises(ConfigError, match="cannot be read"):
        _run("delete", str(index), "--from", str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="3 versions cannot be kept"):
        compact(index, keep=3, purge=True)
    with pytest.raises(ConfigError):
        compact(index, keep=0)


def test_what_is_noted_of_sources_survives_a_purge(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(f"text of {name}")
    build_index(folder, tmp_path / "i", encoder=None, chunker="whole", progress=False)
    delete_documents(tmp_path / "i", ["b.txt"], purge=True)
    assert (tmp_path / "i" / sources.FILE).exists()
    (folder / "a.txt").unlink()
    (folder / "b.txt").unlink()
    assert build_index(folder, tmp_path / "i", encoder=None, progress=False).vanished_ids == ["a.txt"]
