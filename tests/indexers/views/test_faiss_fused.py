"""The flat view over many vectors, where it searches with ``kernels.topk_search``: FAISS's rankings, filters, NaN."""

from __future__ import annotations

import numpy as np
import pytest
from regard.indexers.views import faiss_view, parse_view
from regard.indexers.views.faiss_view import FaissView, import_faiss
from regard.kernels.dispatch import taken
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.errors import StageError


def view(vectors: np.ndarray) -> FaissView:
    index = import_faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return FaissView(index, parse_view("faiss:flat@e"), 2 * np.arange(len(vectors), dtype=np.int64))


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((faiss_view._FUSED_FROM, 24), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 40])
def test_ranks_as_faiss_does(monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, batch: int) -> None:
    queries = np.random.default_rng(1).standard_normal((batch, 24), dtype=np.float32)
    entry = StageTrace("dense", "Dense")
    with tracing(Running(entry)):
        rows, scores = view(vectors).search(queries, 30)
    assert entry.notes == {"kernels": "topk_search: cpu"}
    monkeypatch.setattr(faiss_view, "_FUSED_FROM", 1 << 40)
    with taken() as paths:
        wanted_rows, wanted_scores = view(vectors).search(queries, 30)
    assert not paths
    assert np.array_equal(rows, wanted_rows)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert np.allclose(scores, wanted_scores, atol=1e-5)


def test_equal_vectors_come_by_row_and_a_filter_bounds_the_search(vectors: np.ndarray) -> None:
    vectors[5:] = vectors[5]
    made = view(vectors)
    rows, _ = made.search(vectors[5:6] + 1, 8)
    assert (np.diff(rows[0][rows[0] >= 10]) == 2).all()
    rows, _ = made.search(vectors[5:6], 8, np.array([4, 5, 6_000], dtype=np.int64))
    assert sorted(rows[0][rows[0] >= 0]) == [4, 6_000]


def test_nan_is_a_typed_error(vectors: np.ndarray) -> None:
    made = view(vectors)
    with pytest.raises(StageError, match="NaN"):
        made.search(np.full((1, 24), np.nan, np.float32), 3)
    vectors[7, 7] = np.nan
    with pytest.raises(StageError, match="row 7 is NaN"):
        view(vectors).search(np.ones((1, 24), np.float32), 3)
