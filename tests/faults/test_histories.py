"""Restores, swaps and rollbacks: version numbers come again in another history, and nothing of the other one may be
found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pytest
from regard.indexers import build_index
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document, Pipeline, Query
from regard.rag.errors import RegardError
from regard.retrievers import BM25, Dense

VIEWS = ["faiss:flat", "faiss:hnsw,m=8", "bm25"]
QUERIES = [Query(f"{word} {number}", id=f"{word}{number}") for word in ("apple", "birch", "cedar")
           for number in range(4)]
History = Callable[[Path, Any], None]


def job(path: Path, encoder: Any, word: str, first: int, count: int = 3) -> None:
    documents = [Document(f"d{i}", f"{word} {i} of a common kind") for i in range(first, first + count)]
    build_index(documents, path, encoder=encoder, chunker="whole", views=VIEWS if encoder else ["bm25"], progress=False)


def found(path: Path, encoder: Any, cache: Path | None = None) -> dict[str, list[tuple[str, str, float]]]:
    """Each query's hits by id, text and score, of each kind of view."""
    hits = {}
    for name, stage in (("bm25", BM25(path, k=5)), ("flat", Dense(path, k=5, encoder=encoder)),
                        ("hnsw", Dense(path, k=5, encoder=encoder, view="faiss:hnsw"))):
        p = Pipeline(name, cache=cache)
        p.output(hits=p.add(stage, p.input(Query)))
        with p:
            for query, ranking in zip(QUERIES, p.run(QUERIES).hits, strict=True):
                hits[f"{name} {query.id}"] = [(hit.passage.id, hit.passage.text, round(hit.score, 4))
                                              for hit in ranking]
    return hits


def expected(path: Path, encoder: Any, fresh: Path) -> dict[str, list[tuple[str, str, float]]]:
    """What an index holds that was made of the same passages in one go."""
    store = LanceStore(path)
    documents = [Document(p.document_id, p.text) for p in store.passages(store.rows)]
    build_index(documents, fresh, encoder=encoder, chunker="whole", views=VIEWS, progress=False)
    return found(fresh, encoder)


def replace_folder(old: Path, new: Path) -> None:
    shutil.rmtree(old)
    shutil.copytree(new, old)


def whole_folder_restored(path: Path, encoder: Any) -> None:
    backup = path.with_name("backup")
    shutil.copytree(path, backup)
    job(path, encoder, "birch", 3)
    found(path, encoder, path.with_name("cache"))
    replace_folder(path, backup)
    job(path, encoder, "cedar", 3)


def dataset_restored_and_no_job(path: Path, encoder: Any) -> None:
    """The views of the other history stay."""
    shutil.copytree(path / "passages.lance", path.with_name("backup"))
    job(path, encoder, "birch", 3)
    found(path, encoder, path.with_name("cache"))
    replace_folder(path / "passages.lance", path.with_name("backup"))


def dataset_restored(path: Path, encoder: Any) -> None:
    dataset_restored_and_no_job(path, encoder)
    job(path, encoder, "cedar", 3)


def views_restored(path: Path, encoder: Any) -> None:
    shutil.copytree(path / "views", path.with_name("backup"))
    job(path, encoder, "birch", 0)
    replace_folder(path / "views", path.with_name("backup"))


def two_copies_swapped(path: Path, encoder: Any) -> None:
    other = path.with_name("other")
    shutil.copytree(path, other)
    job(path, encoder, "birch", 3)
    job(other, encoder, "cedar", 3)
    found(path, encoder, path.with_name("cache"))
    for index, kept in ((path, "a"), (other, "b")):
        (index / "passages.lance").rename(path.with_name(kept))
    path.with_name("a").rename(other / "passages.lance")
    path.with_name("b").rename(path / "passages.lance")


def newest_manifest_lost_and_no_job(path: Path, encoder: Any) -> None:
    job(path, encoder, "birch", 3)
    found(path, encoder, path.with_name("cache"))
    min((path / "passages.lance" / "_versions").glob("*.manifest")).unlink()  # they count down
    (path / "passages.lance" / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)


def newest_manifest_lost(path: Path, encoder: Any) -> None:
    newest_manifest_lost_and_no_job(path, encoder)
    job(path, encoder, "cedar", 3)


def rolled_back_by_lance(path: Path, encoder: Any) -> None:
    before = LanceStore(path).version
    job(path, encoder, "birch", 0)
    found(path, encoder, path.with_name("cache"))
    lance.dataset(str(path / "passages.lance"), version=before).restore()


def restored_while_a_pipeline_was_open(path: Path, encoder: Any) -> None:
    shutil.copytree(path, path.with_name("backup"))
    job(path, encoder, "birch", 3)
    p = Pipeline("open", cache=path.with_name("cache"))
    p.output(hits=p.add(BM25(path, k=5), p.input(Query)))
    with p:
        p.run(QUERIES)
        replace_folder(path, path.with_name("backup"))
        job(path, encoder, "cedar", 3)


HISTORIES: list[History] = [
    whole_folder_restored, dataset_restored, dataset_restored_and_no_job, views_restored, two_copies_swapped,
    newest_manifest_lost,
    newest_manifest_lost_and_no_job, rolled_back_by_lance, restored_while_a_pipeline_was_open,
]


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_nothing_of_another_history_is_found(history: History, hash_encoder: Any, tmp_path: Path) -> None:
    path, encoder = tmp_path / "index", hash_encoder(8)
    job(path, encoder, "apple", 0)
    history(path, encoder)
    wanted = expected(path, encoder, tmp_path / "fresh")
    assert found(path, encoder, tmp_path / "cache") == wanted
    assert found(path, encoder, tmp_path / "cache") == wanted  # from the cache


def test_a_restore_inside_a_job_that_adds_an_encoder(hash_encoder: Any, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that wait to be added are of the passages that they were encoded from."""
    path, encoder = tmp_path / "index", hash_encoder(8)
    job(path, None, "apple", 0)
    shutil.copytree(path / "passages.lance", tmp_path / "backup")
    job(path, None, "birch", 3)
    with monkeypatch.context() as patched:
        patched.setattr("regard.indexers.stores.lance.writer.StoreWriter.add_encoder", _refuse)
        with pytest.raises(RegardError):
            build_index(None, path, encoder=encoder, views=[], progress=False)
    assert (path / "pending").exists()
    replace_folder(path / "passages.lance", tmp_path / "backup")
    job(path, None, "cedar", 3)
    build_index(None, path, encoder=encoder, views=[], progress=False)
    store = LanceStore(path)
    stored = [vector for block in store.vectors("hash_encoder") for vector in block]
    texts = [text for block in store.texts() for text in block]
    assert len(texts) == 6
    for vector, text in zip(stored, texts, strict=True):
        assert (vector == encoder.encode_passages([text])[0]).all()


def _refuse(*_: object, **__: object) -> None:
    raise RegardError("not now")


def test_an_unchanged_copy_still_hits(hash_encoder: Any, tmp_path: Path) -> None:
    path, encoder, cache = tmp_path / "index", hash_encoder(8), tmp_path / "cache"
    job(path, encoder, "apple", 0)
    p = Pipeline(cache=cache)
    p.output(hits=p.add(BM25(path, k=5), p.input(Query)))
    with p:
        p.run(QUERIES)
    shutil.copytree(path, tmp_path / "copy")
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "copy", path)
    with p:
        assert p.run(QUERIES).trace["bm25"].cache_hits == len(QUERIES)
    builds = {file: file.read_bytes() for file in (tmp_path / "copy" / "views").rglob("view.json")}
    found(tmp_path / "copy", encoder)
    # none was built anew
    assert {file: file.read_bytes() for file in (tmp_path / "copy" / "views").rglob("view.json")} == builds


def test_a_commit_is_never_the_same_twice(hash_encoder: Any, tmp_path: Path) -> None:
    commits, encoder = set(), hash_encoder(8)
    job(tmp_path / "index", encoder, "apple", 0)
    for n in range(3):
        shutil.copytree(tmp_path / "index", tmp_path / f"{n}")
        job(tmp_path / f"{n}", encoder, "apple", 3)  # the same work each time
        store = LanceStore(tmp_path / f"{n}")
        commits.add((store.version, store.commit))
        assert store.fingerprint.endswith(store.commit)
        assert store.descends_from(store.version, store.commit)
        assert not store.descends_from(store.version - 1, store.commit)
        assert not store.descends_from(store.version + 1, store.commit)
    assert len(commits) == 3
    assert len({version for version, _ in commits}) == 1


def test_a_view_of_another_history_does_not_stay(hash_encoder: Any, tmp_path: Path) -> None:
    """Its folder would have the number of a version to come."""
    path, encoder = tmp_path / "index", hash_encoder(8)
    job(path, encoder, "apple", 0)
    shutil.copytree(path / "passages.lance", tmp_path / "backup")
    for first in (3, 6, 9):
        job(path, encoder, "birch", first)
    replace_folder(path / "passages.lance", tmp_path / "backup")
    job(path, encoder, "cedar", 3)
    store = LanceStore(path)
    assert {folder.name for folder in (path / "views").glob("*/*/")} == {str(store.version)}
