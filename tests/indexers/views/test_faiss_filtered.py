"""Filtered dense search against a comparison of all allowed vectors: rows, scores, ties, fewest hits, recall, and what
the trace says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import faiss_view, filtered, parse_view
from regard.indexers.views.faiss_view import FaissView
from regard.indexers.views.filtered import FilterPlan, describe, search_exactly
from regard.rag import Pipeline, Query
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.errors import StageError
from regard.retrievers import Dense

KINDS = ["faiss:flat", "faiss:ivf,lists=64,probes=4", "faiss:hnsw,m=16,ef_construction=60,ef_search=32"]
N, D = 4000, 24


class Table:
    """Vectors in memory, as a view is built from; every third row number is in use."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.table = vectors
        self.rows = 3 * np.arange(len(vectors), dtype=np.int64)
        self.encoders = {"e": {"dimension": vectors.shape[1]}}

    def vectors(self, encoder: str, start: int = 0) -> Iterator[np.ndarray]:
        yield self.table[start:]

    def __len__(self) -> int:
        return len(self.table)


def build(vectors: np.ndarray, kind: str) -> FaissView:
    return parse_view(f"{kind}@e").build(Table(vectors), Path())


def clustered(n: int, seed: int) -> np.ndarray:
    """Unit vectors around 40 centres, as embeddings are: neighbours share cells."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((40, D))
    made = centres[random.integers(0, 40, n)] + 0.5 * random.standard_normal((n, D))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(N, 0)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(50, 1)


@pytest.fixture(scope="module")
def views(vectors: np.ndarray) -> dict[str, FaissView]:
    return {kind: build(vectors, kind) for kind in KINDS}


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int, positions: np.ndarray) -> tuple[np.ndarray,
                                                                                                  np.ndarray]:
    """Rows and scores of the best ``k`` among ``positions``, in double precision, equal scores by row."""
    scores = queries.astype(np.float64) @ vectors[positions].astype(np.float64).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 3 * positions[best], np.take_along_axis(scores, best, axis=1)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


# -- few allowed rows: exact ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("allowed", [1, 8, 40, 2000])
def test_a_filter_finds_what_comparing_all_allowed_vectors_finds(
    views: dict[str, FaissView], vectors: np.ndarray, queries: np.ndarray, kind: str, allowed: int,
) -> None:
    positions = np.sort(np.random.default_rng(allowed).choice(N, allowed, replace=False))
    rows, scores = views[kind].search(queries, 10, 3 * positions[::-1])
    wanted_rows, wanted_scores = brute_force(vectors, queries, 10, positions)
    assert np.array_equal(rows, wanted_rows)
    assert np.allclose(scores, wanted_scores, atol=1e-6)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_on_far_away_cells_finds_all_it_may(
    views: dict[str, FaissView], vectors: np.ndarray, queries: np.ndarray, kind: str,
) -> None:
    for query in queries[:10]:
        farthest = np.sort(np.argsort(vectors @ query)[:60])
        rows, _ = views[kind].search(query[None], 10, 3 * farthest)
        assert np.array_equal(rows, brute_force(vectors, query[None], 10, farthest)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_the_view_lacks_are_no_hits(views: dict[str, FaissView], queries: np.ndarray, kind: str) -> None:
    newer_and_between = np.array([3 * N, 3 * N + 6, 7, 300, 9, 9], dtype=np.int64)
    rows, _ = views[kind].search(queries, 10, newer_and_between)
    assert rows.shape == (len(queries), 2)
    assert (np.sort(rows, axis=1) == [9, 300]).all()
    for none in (newer_and_between[:3], newer_and_between[:0]):
        rows, scores = views[kind].search(queries, 10, none)
        assert rows.shape == scores.shape == (len(queries), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_under_a_filter_come_by_row_wherever_they_stand(kind: str) -> None:
    made = np.tile(clustered(1, 3), (700, 1))
    view = build(made, kind)
    allowed = 3 * np.arange(0, 700, 2)
    for batch in (1, 7):
        rows, scores = view.search(clustered(batch, 4), 300, allowed)
        assert (rows == allowed[:300]).all()
        assert (scores == scores[:, :1]).all()


def test_rows_in_another_order_than_their_numbers_still_tie_by_number() -> None:
    index = faiss_view.import_faiss().IndexFlatIP(D)
    index.add(np.tile(clustered(1, 3), (6, 1)))
    view = FaissView(index, parse_view("faiss:flat@e"), np.array([50, 10, 40, 0, 20, 30]))
    rows, _ = view.search(clustered(1, 4), 3, np.array([40, 50, 10, 30]))
    assert rows.tolist() == [[10, 30, 40]]


def test_a_view_that_gained_rows_searches_them_under_a_filter(vectors: np.ndarray, queries: np.ndarray,
                                                              tmp_path: Path) -> None:
    for kind in KINDS:
        build(vectors[:3000], kind).save(tmp_path)
        wanted = parse_view(f"{kind}@e")
        view = wanted.extend(wanted.load(tmp_path, Table(vectors[:3000]).rows), Table(vectors))
        assert view is not None
        positions = np.arange(2900, 3100)
        assert np.array_equal(view.search(queries, 10, 3 * positions)[0],
                              brute_force(vectors, queries, 10, positions)[0])


def test_an_ivf_view_written_before_positions_were_kept_is_filtered_too(vectors: np.ndarray, queries: np.ndarray,
                                                                        tmp_path: Path) -> None:
    old = build(vectors, KINDS[1])
    old.index.set_direct_map_type(faiss_view.import_faiss().DirectMap.NoMap)
    old.save(tmp_path)
    view = old.kind.load(tmp_path, old.rows)
    positions = np.arange(100, 160)
    assert np.array_equal(view.search(queries, 10, 3 * positions)[0], brute_force(vectors, queries, 10, positions)[0])


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 9), st.integers(1, 40), st.integers(0, 1 << 30))
def test_an_exact_search_in_blocks_of_any_size_is_a_stable_sort(n: int, k: int, batch: int, block: int,
                                                                seed: int) -> None:
    random = np.random.default_rng(seed)
    index = faiss_view.import_faiss().IndexFlatIP(4)
    table = random.integers(-1, 2, (100, 4)).astype(np.float32)  # small whole numbers: many ties, no rounding
    index.add(table)
    queries = random.integers(-1, 2, (batch, 4)).astype(np.float32)
    positions = np.sort(random.choice(100, n, replace=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filtered, "_BLOCK", 4 * block)
        scores, found = search_exactly(index, queries, min(k, n), positions)
    wanted = np.argsort(-(queries @ table[positions].T), axis=1, kind="stable")[:, :k]
    assert np.array_equal(found, positions[wanted])
    assert np.array_equal(scores, np.take_along_axis(queries @ table[positions].T, wanted, axis=1))


def test_nan_is_a_typed_error(views: dict[str, FaissView], vectors: np.ndarray) -> None:
    for view in views.values():
        for allowed in (None, 3 * np.arange(40)):
            with pytest.raises(StageError, match="a query's vector has NaN"):
                view.search(np.full((1, D), np.nan, np.float32), 3, allowed)
    broken = vectors[:300].copy()
    broken[7, 3] = np.nan
    view = build(broken, "faiss:flat")
    with pytest.raises(StageError, match="position 7 is NaN"):
        view.search(vectors[:1], 3, 3 * np.arange(40))
    assert view.search(vectors[:1], 3, 3 * np.arange(40, 80))[0].shape == (1, 3)


# -- many allowed rows: the index, deeper -----------------------------------------------------


@pytest.fixture
def index_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 20,000 rows, and a fiftieth of all, were few."""
    monkeypatch.setattr(filtered, "EXACT_ROWS", 0)
    monkeypatch.setattr(filtered, "EXACT_SHARE", N)


@pytest.mark.usefixtures("index_only")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_index_loses_no_more_under_a_filter_than_without(
    views: dict[str, FaissView], vectors: np.ndarray, queries: np.ndarray, kind: str, share: float,
) -> None:
    positions = np.sort(np.random.default_rng(0).choice(N, int(share * N), replace=False))
    unfiltered = recall(views[kind].search(queries, 10)[0], brute_force(vectors, queries, 10, np.arange(N))[0])
    entry = StageTrace("dense", "Dense")
    with tracing(Running(entry)):
        rows, scores = views[kind].search(queries, 10, 3 * positions)
    assert entry.notes.get("filter_redone_exactly", 0) < len(queries) / 10
    assert recall(rows, brute_force(vectors, queries, 10, positions)[0]) >= max(0.98, unfiltered)
    assert np.isin(rows, 3 * positions).all()
    assert np.allclose(scores, np.take_along_axis(queries @ vectors.T, rows // 3, axis=1), atol=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.usefixtures("index_only")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hits_at_once", [1, 1 << 22])
def test_a_filter_that_has_to_do_with_the_query_is_noticed_and_searched_exactly(
    views: dict[str, FaissView], vectors: np.ndarray, queries: np.ndarray, kind: str, hits_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss_view, "_HITS_AT_ONCE", hits_at_once)
    farthest = np.sort(np.argsort(vectors @ queries[0])[: N // 2])
    entry = StageTrace("dense", "Dense")
    with tracing(Running(entry)):
        rows, scores = views[kind].search(queries[[0, 0, 1]], 10, 3 * farthest)
    assert entry.notes["filter_redone_exactly"] >= 2
    wanted_rows, wanted_scores = brute_force(vectors, queries[[0, 0]], 10, farthest)
    assert np.array_equal(rows[:2], wanted_rows)
    assert np.allclose(scores[:2], wanted_scores, atol=1e-6)
    assert (rows >= 0).all()


@pytest.mark.usefixtures("index_only")
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_hits_as_are_allowed(views: dict[str, FaissView], vectors: np.ndarray, queries: np.ndarray,
                                     kind: str) -> None:
    positions = np.sort(np.random.default_rng(0).choice(N, 300, replace=False))
    for k in (290, 300, 1000):
        rows, _ = views[kind].search(queries[:3], k, 3 * positions)
        assert np.array_equal(rows, brute_force(vectors, queries[:3], k, positions)[0])


# -- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "total", "exact"), [
    (20_000, 100_000, True), (20_001, 100_000, False), (40_000, 2_000_000, True), (40_001, 2_000_000, False),
    (100_000, 100_000, False),
])
def test_few_allowed_rows_are_compared_and_many_searched_for(allowed: int, total: int, exact: bool) -> None:
    assert FilterPlan(allowed, total).exact == exact


@pytest.mark.parametrize(("allowed", "k"), [(30_000, 10), (30_000, 100), (60_000, 10), (90_000, 1)])
def test_the_depth_holds_enough_allowed_hits(allowed: int, k: int) -> None:
    """The chance that a random filter of this share leaves fewer than ``k`` is under .2 %, and the depth is not
    lavish."""
    depth = FilterPlan(allowed, 100_000).depth(k)
    draws = np.random.default_rng(0).binomial(depth, allowed / 100_000, size=100_000)
    assert (draws < k).mean() < 0.002
    assert depth * allowed / 100_000 < k + 4 * np.sqrt(k) + 10
    assert FilterPlan(allowed, 100_000).depth(99_999) == 100_000


def test_a_plan_in_words() -> None:
    assert str(FilterPlan(212, 20_000)) == "exact over 212 of 20,000 rows"
    assert describe([FilterPlan(900, 100_000), FilterPlan(25_000, 100_000), FilterPlan(30, 100_000)]) == (
        "exact over 30 to 900 of 100,000 rows (2 filters); by the index over 25,000 of 100,000 rows")


def test_the_trace_of_a_stage_says_how_it_searched(facts_index: Path) -> None:
    store = LanceStore(facts_index)
    tech, nature = (len(store.select({"kind": kind})) for kind in ("tech", "nature"))
    p = Pipeline()
    p.output(hits=p.add(Dense(facts_index, k=50), p.input(Query)))
    with p:
        assert "filter_plan" not in p.run("flea").trace["dense"].notes
        result = p.run([Query("flea", "a", filters={"kind": "tech"}), Query("flea", "b", filters={"kind": "nature"})])
        assert result.trace["dense"].notes["filter_plan"] == f"exact over {tech} to {nature} of {len(store)} rows (2 filters)"  # noqa: E501
        assert [len(hits) for hits in result.hits] == [tech, nature]
        none = p.run(Query("flea", filters={"year": 1066}))
        assert none.trace["dense"].notes["filter_plan"] == f"exact over 0 of {len(store)} rows"
        assert len(none.hits) == 0
