from __future__ import annotations

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import build_index
from regard.indexers.stores.filters import compile_filters
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import HNSW, build_view, built_view, load_view, open_view, parse_view, view_kinds
from regard.rag import Document
from regard.rag.errors import (
    ConfigError,
    DimensionMismatch,
    IndexFormatError,
    IndexNotFound,
    QueryError,
    StageError,
    StorageError,
)


@pytest.fixture
def built(tmp_path: Path, hash_encoder: Any) -> tuple[Path, Any]:
    """300 passages with random unit vectors of 32 components, every kind of view."""
    encoder = hash_encoder(32)
    documents = [Document(f"d{i}", f"common word{i % 50} unique{i}", metadata={"i": i}) for i in range(300)]
    build_index(documents, tmp_path, encoder=encoder, chunker="whole", progress=False,
                views=["faiss:flat", "faiss:hnsw,m=16", "faiss:ivf,lists=7,probes=7", "bm25"])
    return tmp_path, encoder


def test_names_of_views_round_trip_and_wrong_ones_are_refused() -> None:
    for name in ("bm25", "bm25:1.2", "bm25:b=0.5", "flat:minilm", "hnsw:48,encoder=minilm",
                 "ivf:64,probes=4,encoder=x"):
        assert str(parse_view(name)) == name
    assert parse_view("hnsw:m=48,encoder=minilm") == parse_view("HNSW:48", "minilm") == HNSW(48, encoder="minilm")
    for name, wrong in (("hsnw", "did you mean hnsw"), ("faiss:hsnw", "known: "), ("flat:m=3", "no setting 'm'"),
                        ("hnsw:m=many", "m: Input should be a valid integer"),
                        ("hnsw:m=0", "greater than or equal to 1")):
        with pytest.raises(ConfigError, match=wrong):
            parse_view(name, "minilm")


def test_the_names_that_views_had_at_first_are_understood() -> None:
    for name, now in (("faiss:flat@minilm", "flat:minilm"), ("faiss:hnsw,m=48@minilm", "hnsw:48,encoder=minilm"),
                      ("faiss:ivf,lists=256,probes=8@a/b,c", 'ivf:256,probes=8,encoder="a/b,c"'),
                      ("bm25,k1=0.9,b=0.3", "bm25:b=0.3"),
                      ("faiss:hnsw,m=16@org/model:v@2", "hnsw:16,encoder=org/model:v@2"),
                      ("bm25,k1=1.5,b=0.4", "bm25:1.5")):
        assert str(parse_view(name)) == now
        assert parse_view(now) == parse_view(name)


def test_folders_of_views_are_names_and_never_shared() -> None:
    assert parse_view("bm25").folders()[0] == "bm25"
    assert parse_view("flat", "minilm").folders()[0] == "faiss-flat-minilm"
    names = ["org/model", "org-model", "ORG/model", "../model", ".model", "", "x" * 100, "x" * 101, "y" * 101, "modèle",
             "a b"]
    slugs = [HNSW(encoder=name).folders()[0] for name in names]
    assert len(set(slugs)) == len(names)
    for slug in slugs:
        assert re.fullmatch(r"faiss-hnsw(-[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99})?", slug)
    assert slugs[names.index("x" * 100)].endswith("-" + "x" * 100)
    assert HNSW(encoder="/org/" + "m" * 30).folders()[0] == f"faiss-hnsw-org-{'m' * 30}-{hashed('/org/' + 'm' * 30)}"
    assert HNSW(encoder="o/" + "m" * 90).folders()[0] == f"faiss-hnsw-{'m' * 40}-{hashed('o/' + 'm' * 90)}"


def hashed(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def test_every_setting_decides_a_folder_and_only_it() -> None:
    names = ("hnsw", "hnsw:33", "hnsw:ef_search=129", "hnsw:ef_construction=201", "ivf", "ivf:probes=3", "ivf:lists=3",
             "bm25",
             "bm25:b=0.5")
    kinds = [parse_view(name, "minilm") for name in names]
    assert len({kind.folders()[1] for kind in kinds}) == len(names)
    assert {kind.folders()[0] for kind in kinds} == {"faiss-hnsw-minilm", "faiss-ivf-minilm", "bm25"}
    assert all(kind.usual() == (":" not in name) for kind, name in zip(kinds, names, strict=True))
    assert parse_view("hnsw:33", "minilm").folders()[1] == "faiss-hnsw-minilm@7d4a8a2a"  # as it is on disks


def test_a_view_without_its_encoder_or_with_one_it_does_not_take() -> None:
    with pytest.raises(ConfigError, match="flat needs a dense encoder"):
        parse_view("faiss:flat")
    assert parse_view("faiss:flat@mine", "minilm").encoder == "mine"
    assert parse_view("bm25", "minilm").column is None
    assert [parse_view(f"attention:smollm2,last={last}").identity()["layers"] for last in (0, 29)] == [1, 30]


def test_flat_search_is_exact(built: tuple[Path, Any]) -> None:
    path, encoder = built
    store = LanceStore(path)
    vectors = np.concatenate([*store.vectors("hash_encoder")])
    queries = encoder.encode_queries([f"query {i}" for i in range(20)])
    rows, scores = open_view(store, parse_view("faiss:flat@hash_encoder")).search(queries, 10)
    exact = queries @ vectors.T
    assert np.array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert np.allclose(scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-6)


@pytest.mark.parametrize("kind", ["faiss:hnsw", "faiss:ivf"])
def test_approximate_views_find_nearly_what_flat_finds(built: tuple[Path, Any], kind: str) -> None:
    path, encoder = built
    store = LanceStore(path)
    queries = encoder.encode_queries([f"query {i}" for i in range(20)])
    exact, _ = open_view(store, parse_view("faiss:flat@hash_encoder")).search(queries, 10)
    found, _ = open_view(store, parse_view(f"{kind}@hash_encoder")).search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.95


@pytest.mark.parametrize("kind", ["faiss:flat", "faiss:hnsw", "faiss:ivf"])
def test_allowed_rows_bound_a_dense_search(built: tuple[Path, Any], kind: str) -> None:
    path, encoder = built
    store = LanceStore(path)
    allowed = np.array([7, 9, 211], dtype=np.int64)
    rows, scores = open_view(store, parse_view(f"{kind}@hash_encoder")).search(encoder.encode_queries(["q"]), 10,
                                                                               allowed)
    assert sorted(rows[0][rows[0] >= 0]) == [7, 9, 211]
    assert (np.diff(scores[0]) <= 0).all()
    assert open_view(store, parse_view(f"{kind}@hash_encoder")).search(encoder.encode_queries(["q"]), 10,
                                                                       allowed[:0])[0].shape == (1, 0)


def test_bm25_gives_only_passages_that_share_a_word_and_breaks_ties_by_row(built: tuple[Path, Any]) -> None:
    store = LanceStore(built[0])
    view = open_view(store, parse_view("bm25"))
    rows, scores = view.search(["word7 the", "absent", "COMMON"], 10)
    assert rows[0].tolist() == [7, 57, 107, 157, 207, 257, -1, -1, -1, -1]
    assert rows[1].tolist() == [-1] * 10
    assert rows[2].tolist() == sorted(rows[2].tolist())
    assert np.isneginf(scores[1]).all()
    rows, _ = view.search(["common"], 3, np.array([200, 5], dtype=np.int64))
    assert rows[0].tolist() == [5, 200, -1]


def test_a_batch_gives_what_single_searches_give(built: tuple[Path, Any]) -> None:
    view = open_view(LanceStore(built[0]), parse_view("bm25"))
    queries = [f"common word{i} unique{3 * i}" for i in range(40)]
    together = view.search(queries, 20)
    alone = [view.search([q], 20) for q in queries]
    assert np.array_equal(together[0], np.concatenate([rows for rows, _ in alone]))
    assert np.array_equal(together[1], np.concatenate([scores for _, scores in alone]))


def test_query_vectors_of_another_dimension_are_refused(built: tuple[Path, Any]) -> None:
    view = open_view(LanceStore(built[0]), parse_view("faiss:flat@hash_encoder"))
    with pytest.raises(DimensionMismatch, match=r"\(1, 31\).* 32 components"):
        view.search(np.zeros((1, 31), np.float32), 3)


def test_a_stale_view_is_extended_before_it_is_used(built: tuple[Path, Any]) -> None:
    path, encoder = built
    before = set((path / "views").rglob("view.json"))
    from regard.indexers.stores.changes import Changes, document_hash
    from regard.indexers.stores.lance.writer import StoreWriter
    from regard.indexers.stores.locks import locked

    store = LanceStore(path)
    document = Document("late", "latecomer arrives")
    from regard.indexers.chunkers import Whole

    passages = Whole().chunk(document)
    with locked(path):  # what a job does that is killed before its views are built
        writer = StoreWriter(path, chunker=store.manifest["chunker"])
        writer.commit(Changes(passages, [document_hash(document)],
                              {"hash_encoder": encoder.encode_passages(["latecomer arrives"])}, []), 300)
    fresh = LanceStore(path)
    rows, _ = open_view(fresh,
                        parse_view("faiss:flat@hash_encoder")).search(encoder.encode_queries(["latecomer arrives"]), 1)
    assert rows.tolist() == [[300]]
    rows, _ = open_view(fresh, parse_view("bm25")).search(["latecomer"], 1)
    assert rows.tolist() == [[300]]
    assert set((path / "views").rglob("view.json")) != before


@pytest.mark.parametrize("change",
                         ["a passage in the middle goes", "a passage changes and one comes", "only new ones come"])
def test_every_passage_is_found_by_its_own_vector_after_the_corpus_changed(built: tuple[Path,
                                                                                        Any], change: str) -> None:
    """A view may be extended only where its rows are the first rows of the store; else position i would stand for
    another passage."""
    path, encoder = built
    documents = [Document(f"d{i}", f"common word{i % 50} unique{i}", metadata={"i": i}) for i in range(300)]
    if change == "a passage in the middle goes":
        documents[5:7] = [Document("d5", "five has changed"), Document("d6", "six has changed")]
    elif change == "a passage changes and one comes":
        documents[5] = Document("d5", "five has changed")
        documents += [Document("late", "latecomer arrives")]
    else:
        documents += [Document(f"late{i}", f"latecomer{i}") for i in range(3)]
    build_index(documents, path, encoder=encoder, chunker="whole", progress=False)
    store = LanceStore(path)
    texts = [text for block in store.texts() for text in block]
    assert sorted(texts) == sorted(d.text for d in documents)
    for kind in ("faiss:flat", "faiss:hnsw", "faiss:ivf"):
        rows, scores = open_view(store, parse_view(f"{kind}@hash_encoder")).search(encoder.encode_queries(texts), 1)
        assert rows[:, 0].tolist() == store.rows.tolist()
        assert scores == pytest.approx(1, abs=1e-5)
    rows, _ = open_view(store, parse_view("bm25")).search(texts, 1)
    assert rows[:, 0].tolist() == store.rows.tolist()


def test_a_view_of_another_dataset_is_not_taken_for_this_ones(built: tuple[Path, Any], tmp_path_factory: Any) -> None:
    """An index that was deleted and made again in its place has the same version numbers."""
    path, encoder = built
    other = tmp_path_factory.mktemp("other")
    build_index([Document(f"d{i}", f"common other{i}", metadata={"i": i}) for i in range(300)], other, encoder=encoder,
                chunker="whole",
                progress=False, views=["faiss:flat", "bm25"])
    shutil.rmtree(other / "views")
    shutil.copytree(path / "views", other / "views")
    store = LanceStore(other)
    assert store.version == LanceStore(path).version
    assert open_view(store, parse_view("bm25")).search(["other7", "word7"], 1)[0].tolist() == [[7], [-1]]
    rows, scores = open_view(store,
                             parse_view("faiss:flat@hash_encoder")).search(encoder.encode_queries(["common other7"]), 1)
    assert (rows.tolist(), scores.tolist()) == ([[7]], [[pytest.approx(1, abs=1e-5)]])


def test_a_view_that_cannot_be_written_leaves_what_was_there(built: tuple[Path, Any],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = built
    store = LanceStore(path)
    before = sorted(f.relative_to(path) for f in (path / "views").rglob("*"))

    def full(self: Any, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError(28, "No space left on device")

    rows = next((path / "views" / "bm25").rglob("rows.npy"))
    content = rows.read_bytes()
    rows.write_bytes(b"damaged")  # so that it is built over the view of the same version that is there
    monkeypatch.setattr("regard.indexers.views.bm25.BM25View.save", full)
    with pytest.raises(StorageError, match="bm25 cannot be written"):
        build_view(store, parse_view("bm25"))
    assert sorted(f.relative_to(path) for f in (path / "views").rglob("*")) == before
    rows.write_bytes(content)
    assert open_view(store, parse_view("bm25")).search(["unique3"], 1)[0].tolist() == [[3]]
    rows.write_bytes(b"damaged")
    monkeypatch.undo()
    build_view(store, parse_view("bm25"))
    assert rows.read_bytes() == content
    assert sorted(f.relative_to(path) for f in (path / "views").rglob("*")) == before


def test_a_missing_view_names_what_is_there_and_a_damaged_one_is_named(built: tuple[Path, Any], hash_encoder: Any,
                                                                       tmp_path: Path) -> None:
    path, _ = built
    shutil.rmtree(path / "views" / "bm25")
    store = LanceStore(path)
    with pytest.raises(IndexNotFound, match=r"(?s)no view bm25.*flat:hash_encoder"):
        open_view(store, parse_view("bm25"))
    (file,) = (path / "views" / "faiss-flat-hash_encoder").rglob("index.faiss")
    file.write_bytes(b"garbage")
    with pytest.raises(IndexFormatError,
                       match=r"(?s)index.faiss is damaged: it has 7 bytes.*regard verify .* --repair"):
        load_view(built_view(path, parse_view("faiss:flat@hash_encoder")))
    assert open_view(store, parse_view("faiss:flat@hash_encoder")).index.ntotal == 300


def test_settings_of_a_view_are_kept_and_other_ones_are_another_view(built: tuple[Path, Any]) -> None:
    path, _ = built
    assert {str(s) for s in view_kinds(path)} == {
        "bm25", "flat:hash_encoder", "hnsw:16,encoder=hash_encoder", "ivf:7,probes=7,encoder=hash_encoder"}
    store = LanceStore(path)
    first = open_view(store, parse_view("bm25")).search(["common unique3"], 1)[1]
    build_view(store, parse_view("bm25,k1=2,b=0.9"))
    second = open_view(store, "bm25:b=0.9").search(["common unique3"], 1)[1]
    assert first[0, 0] != second[0, 0]
    assert np.array_equal(open_view(store, parse_view("bm25")).search(["common unique3"], 1)[1], first)


def test_bm25_of_an_index_without_text_is_refused(tmp_path: Path, hash_encoder: Any) -> None:
    build_index([Document("a", "text")], tmp_path, encoder=hash_encoder(4), chunker="whole", text=False,
                views=["faiss:flat"],
                progress=False)
    with pytest.raises(StageError, match="stores none"):
        build_view(LanceStore(tmp_path), parse_view("bm25"))


@pytest.mark.parametrize(("filters", "accepted"), [
    ({"year": 2020}, True), ({"year": 2021}, False), ({"year": [2019, 2020]}, True),
    ({"year": {"gte": 2020, "lt": 2021}}, True),
    ({"year": {"gt": 2020}}, False), ({"tags": {"contains": "b"}}, True), ({"missing": 1}, False),
    ({"year": {"lt": "x"}}, False),
    ({"year": {"ne": 3}, "lang": "en"}, True), ({"year": {"in": [1, 2]}}, False), ({}, True),
])
def test_filters(filters: dict[str, Any], accepted: bool) -> None:
    assert compile_filters(filters)({"year": 2020, "tags": ["a", "b"], "lang": "en"}) is accepted


@pytest.mark.parametrize("condition", [{"around": 3}, {}])
def test_a_filter_that_means_nothing_is_refused(condition: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match="operators: eq"):
        compile_filters({"year": condition})


def test_builders_of_one_view_wait_for_each_other(built: tuple[Path, Any]) -> None:
    path, _ = built
    (home,) = path.glob("views/bm25")
    for folder in home.glob("*/"):
        (folder / "view.json").write_text(json.dumps({**json.loads((folder / "view.json").read_text()), "version": 0}))
        folder.rename(home / "0")  # a view of an older version, which everyone who opens it finds stale
    (home / "new-left").mkdir()
    with ThreadPoolExecutor(6) as pool:
        views = list(pool.map(lambda _: open_view(LanceStore(path), parse_view("bm25")), range(6)))
    assert {v.search(["unique7"], 1)[0].tolist()[0][0] for v in views} == {7}
    assert [f.name for f in home.glob("*/")] == [str(LanceStore(path).version)]
