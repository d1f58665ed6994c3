"""Files of views against their digests: what is looked at when, what is remembered, and what a damaged view becomes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import build_index
from regard.indexers.stores import integrity
from regard.indexers.stores.integrity import Digest
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import build_view, built_view, load_view, open_view, parse_view
from regard.rag import Document
from regard.rag.errors import IndexFormatError, IndexNotFound
from regard.retrievers import BM25 as BM25Stage

BM25 = parse_view("bm25")


@pytest.fixture
def index(tmp_path: Path, hash_encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    documents = [Document(f"d{i}", f"the common word and unique{i}") for i in range(40)]
    build_index(documents, tmp_path / "index", chunker="whole", encoder=hash_encoder(), views=["bm25", "faiss:flat"],
                progress=False)
    return tmp_path / "index"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose content is read for their digest."""
    names: list[str] = []
    real = Digest.of
    monkeypatch.setattr(Digest, "of", lambda file: names.append(file.name) or real(file))
    return names


def flip(file: Path, at: int = -1) -> None:
    """Damage one bit, and leave size and time as they are."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def folder(index: Path, slug: str = "bm25") -> Path:
    return next(f for f in (index / "views" / slug).iterdir() if f.is_dir())


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def another_machine(index: Path) -> None:
    """Forget which files were found good."""
    integrity._remembered.clear()
    shutil.rmtree(index.parent / "cache")


def test_what_was_just_built_is_read_once_and_another_machine_reads_it_once(index: Path, read: list[str]) -> None:
    open_view(LanceStore(index), BM25)
    assert read == ["rows.npy"]
    another_machine(index)
    read.clear()
    open_view(LanceStore(index), BM25)
    assert sorted(set(read)) == sorted(f.name for f in folder(index).iterdir() if f.name != "view.json")
    integrity._remembered.clear()  # another process
    read.clear()
    open_view(LanceStore(index), BM25)
    assert read == ["rows.npy"]
    touch(next(folder(index).glob("data*")))
    open_view(LanceStore(index), BM25)
    assert [name for name in read if name.startswith("data")] == ["data.csc.index.npy"]


@pytest.mark.parametrize("slug", ["bm25", "faiss-flat-hash_encoder"])
def test_every_file_that_is_damaged_is_named_and_built_anew(index: Path, slug: str) -> None:
    spec = next(s for s in (BM25, parse_view("faiss:flat@hash_encoder")) if s.folders()[0] == slug)
    store = LanceStore(index)
    asked = ["common unique7"] if slug == "bm25" else np.eye(1, 384, dtype=np.float32)[:,
                                                                                       :store.encoders["hash_encoder"]["dimension"]]
    expected = open_view(store, spec).search(asked, 5)
    for name in sorted(f.name for f in folder(index, slug).iterdir() if f.name != "view.json"):
        another_machine(index)
        flip(folder(index, slug) / name)
        with pytest.raises(IndexFormatError, match=rf"(?s){name} is damaged.*regard verify .* --repair"):
            load_view(built_view(index, spec))
        found = open_view(store, spec).search(asked, 5)
        assert all(map(np.array_equal, found, expected))
        load_view(built_view(index, spec))


def test_a_damaged_description_keeps_the_settings(index: Path) -> None:
    store, spec = LanceStore(index), parse_view("bm25,k1=1.7,b=0.2")
    build_view(store, spec)
    slug = spec.folders()[1]
    for damage in (b"", b"[]", b'{"spec": 1}',
                   (folder(index, slug) / "view.json").read_bytes().replace(b"1.7", b"1.3")):
        (folder(index, slug) / "view.json").write_bytes(damage)
        with pytest.raises(IndexFormatError, match=r"(?s)description of the view bm25:1\.7,b=0\.2 is damaged"):
            load_view(built_view(index, spec))
        assert open_view(store, "bm25:k1=1.7").kind == spec
    (folder(index, slug) / "view.json").write_bytes(b"")
    (folder(index, slug).parent / "spec.json").write_bytes(b"")
    with pytest.raises(IndexNotFound):
        built_view(index, spec)


def test_a_description_names_no_files_outside(index: Path) -> None:
    version = built_view(index, BM25)
    meta = {**version.meta, "files": {**version.meta["files"], "../../../unfinished.json": {"bytes": 0, "sha256": ""}}}
    (version.folder / "view.json").write_text(json.dumps(integrity.sealed(meta, "view.json")))
    with pytest.raises(IndexFormatError, match=r"\.\./\.\./\.\./unfinished\.json is not described"):
        load_view(built_view(index, BM25))


def test_the_switch_leaves_sizes_and_rows(index: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    another_machine(index)
    monkeypatch.setenv(integrity.SWITCH, "0")
    load_view(built_view(index, BM25))
    assert read == ["rows.npy"]
    flip(folder(index) / "rows.npy")
    with pytest.raises(IndexFormatError, match=r"rows\.npy is damaged"):
        load_view(built_view(index, BM25))


@pytest.mark.parametrize("damage", ["indptr", "indices", "vocab"])
def test_arrays_by_which_numba_would_leave_its_memory_are_refused(index: Path, damage: str) -> None:
    """Whoever made them wrote their digests, too."""
    (file,) = folder(index).glob(f"{damage}*")
    if damage == "vocab":
        words = json.loads(file.read_text())
        file.write_text(json.dumps({word: i + 10 ** 6 for word, i in words.items()}))
    else:
        array = np.load(file)
        array[len(array) // 2] += 1_000_000_000
        np.save(file, array)
    version = built_view(index, BM25)
    files = {**version.meta["files"], file.name: {"bytes": Digest.of(file).bytes, "sha256": Digest.of(file).sha256}}
    (version.folder / "view.json").write_text(json.dumps(integrity.sealed({**version.meta, "files": files},
                                                                          "view.json")))
    with pytest.raises(IndexFormatError, match=r"postings|words"):
        load_view(built_view(index, BM25))


def test_check_says_that_a_view_is_damaged(index: Path) -> None:
    assert not list(BM25Stage(index).check())
    (folder(index) / "vocab.index.json").write_bytes(b"{}")
    (problem,) = BM25Stage(index).check()
    assert not problem.fatal
    assert "vocab.index.json is damaged" in problem.what
