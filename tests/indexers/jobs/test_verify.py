"""``regard verify``: what it finds, names and mends; what fetched passages are compared with; cache entries."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import build_index, delete_documents, verify_index
from regard.indexers.jobs.compaction import compact
from regard.indexers.stores.lance.digests import LEDGER
from regard.indexers.stores.lance.store import LanceStore, reading
from regard.rag import Document, Query
from regard.rag.app.cli import app
from regard.rag.dag.cache import StageCache
from regard.rag.errors import IndexFormatError, IndexNotFound
from typer.testing import CliRunner

DOCUMENTS = [Document(f"d{i}", f"the common word and unique{i}", metadata={"n": i}) for i in range(40)]


@pytest.fixture
def build(tmp_path: Path, hash_encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    encoder = hash_encoder(dimension=16)

    def built(*documents: Document) -> Path:
        build_index(documents or DOCUMENTS, tmp_path / "index", chunker="whole", encoder=encoder,
                    views=["bm25", "faiss:flat"],
                    progress=False)
        return tmp_path / "index"

    return built


@pytest.fixture
def index(build: Callable[..., Path]) -> Path:
    """20 documents in one commit and 20 in another, and one of them deleted."""
    build(*DOCUMENTS[:20])
    path = build()
    delete_documents(path, ["d3"])
    return path


def data_files(index: Path) -> list[Path]:
    return sorted((index / "passages.lance" / "data").iterdir(), key=lambda file: file.stat().st_mtime_ns)


def change(file: Path, old: bytes, new: bytes) -> None:
    data = file.read_bytes()
    assert data.count(old) >= 1
    file.write_bytes(data.replace(old, new))


def names(index: Path) -> set[str]:
    store = LanceStore(index)
    return set(store.document_ids(store.rows))


def test_a_whole_index_is_whole(index: Path) -> None:
    report = verify_index(index)
    assert (report.ok, report.problems, report.notes, report.passages) == (True, [], [], 39)
    on_disk = [f for f in (index / "views").rglob("*") if f.is_file()
               and f.name not in ("view.json", "spec.json", ".lock")]
    assert report.files == len(on_disk) + len(data_files(index)) + len(list((index / "passages.lance").glob("_deletions/*"))) + 2  # noqa: E501


def test_damaged_text_is_noticed_when_it_is_fetched(index: Path) -> None:
    change(data_files(index)[0], b"unique7", b"unique8")
    store = LanceStore(index)
    assert store.passages(store.rows[-3:])
    with pytest.raises(IndexFormatError, match=r"(?s)text of passage 'd7.*regard verify"):
        store.passages(store.rows)


def test_damaged_documents_are_taken_out_named_and_indexed_again(index: Path, build: Callable[..., Path]) -> None:
    file = data_files(index)[0]
    change(file, b"unique7", b"unique8")
    report = verify_index(index)
    assert [(found.file, found.mend) for found in report.problems] == [
        (f"passages.lance/data/{file.name}", f"regard verify {index} --repair")]
    report = verify_index(index, repair=True)
    assert report.ok
    lost = {d.id for d in DOCUMENTS[:20]} - {"d3"}
    assert set(report.lost) == lost
    assert names(index) == {d.id for d in DOCUMENTS[20:]}
    build()
    assert verify_index(index).ok
    assert names(index) == {d.id for d in DOCUMENTS}
    store = LanceStore(index)
    assert len(set(store.rows.tolist())) == 40
    assert set(store.rows.tolist()) & set(range(40)) == set(range(20, 40))  # lost rows are not given out again


@pytest.mark.parametrize("left", [0, 40])
def test_a_part_that_cannot_be_read_is_taken_out(index: Path, build: Callable[..., Path], left: int) -> None:
    file = data_files(index)[0]
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(IndexFormatError, match=r"(?s)passage store cannot be read.*regard verify"):
        LanceStore(index).passages(LanceStore(index).rows)
    assert verify_index(index, repair=True).ok
    build()
    assert names(index) == {d.id for d in DOCUMENTS}
    assert verify_index(index).ok


def test_without_a_ledger_contents_are_checked(index: Path) -> None:
    (index / "passages.lance" / LEDGER).unlink()
    report = verify_index(index)
    assert report.ok
    assert "not covered by digests" in report.notes[0].what
    change(data_files(index)[0], b"unique7", b"unique8")
    assert "text of passage 'd7" in verify_index(index).problems[0].what


@pytest.mark.parametrize(("damage", "said"),
                         [(lambda file: file.write_bytes(file.read_bytes()[:-20]), "last commit is undone"),
                                              (lambda file: file.unlink(), "1 commits are lost")])
def test_a_damaged_last_description_is_undone(
    damage: Callable[[Path], object], said: str, index: Path, build: Callable[..., Path],
) -> None:
    damage(max((index / "passages.lance" / "_versions").glob("*.manifest"), key=lambda file: file.stat().st_mtime_ns))
    assert not verify_index(index).ok
    report = verify_index(index, repair=True)
    assert report.ok
    assert said in report.repaired[0]
    assert verify_index(index).ok
    build()
    assert verify_index(index).ok
    assert names(index) == {d.id for d in DOCUMENTS}


def test_sources_that_are_damaged_are_made_anew(index: Path, build: Callable[..., Path]) -> None:
    (index / "sources.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert [found.file for found in verify_index(index).problems] == ["sources.sqlite"]
    assert verify_index(index, repair=True).ok
    build()
    with sqlite3.connect(index / "sources.sqlite") as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_the_command(index: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["verify", str(index)]).exit_code == 0
    next((index / "views" / "bm25").rglob("data*")).write_bytes(b"")
    done = run(app, ["verify", str(index)])
    assert done.exit_code == 1
    assert "data.csc.index.npy is damaged: it has 0 bytes" in done.output.replace("\n", "")
    done = run(app, ["verify", str(index), "--repair", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["repaired"] == ["the view bm25 is built anew"]
    assert run(app, ["verify", str(index)]).exit_code == 0
    with pytest.raises(IndexNotFound):
        verify_index(tmp_path / "nothing")


def test_errors_of_rust_are_errors_of_the_index(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with pytest.raises(IndexFormatError, match="range end index"), reading(tmp_path):
        raise panic("range end index 7 out of range")
    with pytest.raises(KeyboardInterrupt), reading(tmp_path):
        raise KeyboardInterrupt


@pytest.mark.parametrize("damage",
                         [lambda data: data.replace(b"fleas", b"bees!"), lambda data: data[:-1], lambda data: b"",
                                    lambda data: data.partition(b"\n")[2]])
def test_a_damaged_cache_entry_is_absent(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    one, two = cache.key("stage", [Query("one")]), cache.key("stage", [Query("two")])
    cache.put(one, Query("fleas"))
    cache.put(two, Query("moons"))
    assert cache.get(one, Query) == Query("fleas")
    file = cache._path(one)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert cache.get(one, Query) is None
    cache._path(two).write_bytes(whole)  # another query's entry
    assert cache.get(two, Query) is None


def test_vectors_of_an_encoder_that_was_added_are_computed_again(
    tmp_path: Path, hash_encoder: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, added = tmp_path / "index", hash_encoder(dimension=8)
    for some in (DOCUMENTS[:20], DOCUMENTS):
        build_index(some, index, chunker="whole", encoder=None, views=["bm25"], progress=False)
    before = set(data_files(index))
    build_index(None, index, encoder=added, views=["faiss:flat"], progress=False)
    new = sorted(set(data_files(index)) - before)
    expected = {id: vector.tolist() for id, vector in held(index)}
    new[0].write_bytes(bytes(new[0].stat().st_size))
    assert not verify_index(index).ok
    monkeypatch.setattr("regard.indexers.jobs.verify.stored_encoder", lambda fingerprint: added)
    report = verify_index(index, repair=True)
    assert (report.ok, report.lost) == (True, [])
    assert {id: vector.tolist() for id, vector in held(index)} == expected
    assert names(index) == {d.id for d in DOCUMENTS}


def held(index: Path) -> list[tuple[str, Any]]:
    store = LanceStore(index)
    return list(zip(store.document_ids(store.rows), np.concatenate(list(store.vectors("hash_encoder"))), strict=True))


@pytest.mark.parametrize("purge", [False, True])
def test_a_compacted_index_is_whole(purge: bool, index: Path) -> None:
    compact(index, purge=purge)
    report = verify_index(index)
    assert (report.problems, report.notes) == ([], [])
    change(data_files(index)[-1], b"unique7", b"unique8")
    assert not verify_index(index).ok
    assert verify_index(index, repair=True).ok
