"""Which version of an index pipelines read while a job is writing to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from regard.indexers import build_index, delete_documents, open_index
from regard.indexers.stores.locks import locked
from regard.indexers.stores.opening import located, shared_store
from regard.indexers.stores.serving import finished
from regard.rag import Document


@pytest.fixture
def index(tmp_path: Path, hash_encoder: Any) -> Path:
    path = tmp_path / "index"
    build_index([Document(f"d{i}", f"text number {i}") for i in range(6)], path, encoder=hash_encoder(8),
                chunker="whole",
                views=["bm25", "faiss:flat"], progress=False)
    return path


def _committed(index: Path) -> int:
    """The version of a further commit, which has no views."""
    kind, path = located(index)
    kind.write(path).delete(["d3"])
    return open_index(index).version


def test_beside_a_job_it_is_the_newest_with_all_its_views(index: Path) -> None:
    before = open_index(index).version
    with locked(index):
        served = shared_store(index)
        newest = _committed(index)
        assert newest > before
        assert (served.version, shared_store(index).version, len(shared_store(index))) == (before, before, 6)
        assert not served.superseded()  # type: ignore[attr-defined]
        assert finished(open_index(index)) == before
    assert shared_store(index).version == newest
    delete_documents(index, ["d4"])  # a job that ends has built its views
    assert served.superseded()  # type: ignore[attr-defined]
    assert finished(open_index(index)) == open_index(index).version > newest


def test_a_view_of_another_history_does_not_count(index: Path, tmp_path: Path) -> None:
    """A backup is put back after a job: the views of the later version lie there, and the number will be given
    again."""
    shutil.copytree(index / "passages.lance", tmp_path / "backup")
    before = open_index(index).version
    delete_documents(index, ["d0"])
    later = open_index(index).version
    assert finished(open_index(index)) == later
    shutil.rmtree(index / "passages.lance")
    (tmp_path / "backup").rename(index / "passages.lance")
    with locked(index):
        newest = _committed(index)
        assert newest == later > before
        assert finished(open_index(index)) is None
        assert shared_store(index).version == newest


def test_an_index_without_views_is_read_as_it_is(tmp_path: Path) -> None:
    build_index([Document("a", "text"), Document("d3", "text")], tmp_path, encoder=None, views=[], progress=False)
    with locked(tmp_path):
        assert finished(open_index(tmp_path)) is None
        newest = _committed(tmp_path)
        assert shared_store(tmp_path).version == newest
