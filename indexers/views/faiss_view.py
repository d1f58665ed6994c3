"""Inner product over one encoder's vectors by FAISS: what the kinds ``flat``, ``hnsw`` and ``ivf`` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...rag.dag.trace import record, record_kernels
from ...rag.errors import DimensionMismatch, MissingDependency, StageError
from ...rag.models.encoding import Vectors
from ...rag.nouns import Rows, Scores
from ..integrity import Files
from ..stores.lance.store import LanceStore
from .filtered import FilterPlan, Positions, only_allowed, search_exactly
from .kind import ViewKind
from .versions import damaged_view

_FILE = "index.faiss"
_FUSED_FROM = 20_000
"""Vectors from which ``kernels.topk_search`` beats FAISS's flat search: 1.3 to 2.7 times the speed at 50,000 x 384 and
more. With fewer there is nothing to gain, and numba would take half a second to import."""
_WRITTEN_AT_ONCE = 1 << 20
_HITS_AT_ONCE = 1 << 22
"""Hits, allowed or not, that are held at once: 50 MB."""


def import_faiss() -> Any:
    """The module faiss, which two extras bring. Raises ``MissingDependency`` that names both.

    It is told to use matrix products for small batches too: by default 64 queries make 64 passes over the vectors (309
    ms at 200,000 x 384; 51 ms so). One query takes as long either way.
    """
    try:
        import faiss
    except ImportError:
        raise MissingDependency("FAISS is not installed", where="dense search",
                                hint="pip install 'regard[cpu]' (faiss-cpu), or 'regard[gpu]' on Linux with CUDA "
                                     "(faiss-gpu)") from None
    faiss.cvar.distance_compute_blas_threshold = 1
    return faiss


class FaissKind(ViewKind):
    """Base of FAISS's kinds, over the vectors of ``encoder``."""

    queries = "vectors"
    faiss_class: ClassVar[str]
    """The name of the class of its indexes."""

    def empty(self, store: LanceStore, dimension: int) -> Any:
        """An empty FAISS index, trained where it needs that."""
        raise NotImplementedError("a subclass makes its index")

    def tune(self, index: Any) -> None:
        """Set what a search goes by and FAISS does not keep."""

    def parameters(self, k: int, effort: float) -> Any:
        """FAISS's search parameters for ``k`` hits with ``effort`` times the kind's own search width."""
        return None

    def build(self, store: LanceStore, home: Path, progress: bool | None = None) -> FaissView:
        """Stream the vectors out of the store; besides the index itself a few thousand are in memory."""
        index = self.empty(store, int(store.encoders[self.column or ""]["dimension"]))
        return _filled(FaissView(index, self, store.rows), store, 0)

    def extend(self, view: FaissView, store: LanceStore) -> FaissView | None:
        """Add the vectors of the rows that the store has gained; what holds none was trained on none."""
        if not len(view.rows):
            return None
        return _filled(FaissView(view.index, self, store.rows), store, len(view.rows))

    def load(self, folder: Path, rows: Rows) -> FaissView:
        """Raises ``IndexFormatError`` for what FAISS cannot read, and for an index of another kind or size."""
        faiss = import_faiss()
        try:
            index = faiss.read_index(str(folder / _FILE))
        except (RuntimeError, MemoryError) as error:
            raise damaged_view(folder, str(error).partition("\n")[0]) from None
        if type(index).__name__ != self.faiss_class or index.ntotal != len(rows):
            raise damaged_view(folder, f"{_FILE} is a {type(index).__name__} of {index.ntotal} vectors for {len(rows)} "
                                       f"passages")
        self.tune(index)
        return FaissView(index, self, rows)

    def expect_installed(self) -> None:
        import_faiss()


class FaissView:
    """Position ``i`` of the FAISS index is passage row ``rows[i]``."""

    def __init__(self, index: Any, kind: FaissKind, rows: Rows) -> None:
        self.index = index
        self.kind = kind
        self.rows = rows
        self._by_row = None if (np.diff(rows) > 0).all() else np.argsort(rows, kind="stable")

    def save(self, folder: Path) -> Files:
        faiss = import_faiss()
        with (folder / _FILE).open("wb") as file:  # FAISS's own does not see that the disk refused the last of it
            faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write, _WRITTEN_AT_ONCE))
        return {}

    def search(self, vectors: Vectors, k: int, allowed: Rows | None = None) -> tuple[Rows, Scores]:
        """The ``k`` nearest passages of each query.

        ``vectors`` float32 [n, d]; ``allowed`` limits the search to these rows, as :class:`.filtered.FilterPlan` says:
        rows that the view lacks are no hits, and of the others no query finds fewer than there are. Gives rows int64
        [n, k] and scores float32 [n, k], best first, equal scores by row; row -1 where there are fewer. Raises
        ``DimensionMismatch``, and ``StageError`` for NaN in a query or, where vectors are compared one by one, in what
        it is compared with.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.index.d:
            raise DimensionMismatch(f"query vectors have shape {vectors.shape}, the view holds {self.index.d} "
                                    f"components each",
                                    where=f"view {self.kind}",
                                    hint="query with the encoder that the index was made with")
        if not np.isfinite(vectors).all():
            raise StageError("a query's vector has NaN or infinity", where=f"view {self.kind}",
                             hint="check the encoder's dtype")
        positions = None if allowed is None else self._positions(allowed)
        k = min(k, self.index.ntotal if positions is None else len(positions))
        if k == 0 or not len(vectors):
            return np.zeros((len(vectors), 0), np.int64), np.zeros((len(vectors), 0), np.float32)
        vectors = np.ascontiguousarray(vectors)
        if positions is not None:
            scores, found = self._filtered(vectors, k, positions)
        else:
            scores, found = self._nearest(vectors, k)
        rows = np.where(found >= 0, np.asarray(self.rows)[found], -1)
        scores = np.where(found >= 0, scores, -np.inf).astype(np.float32)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def plan(self, allowed: Rows) -> FilterPlan:
        """How a search among these rows goes."""
        return FilterPlan(len(allowed), self.index.ntotal)

    def _positions(self, allowed: Rows) -> Positions:
        """Where these rows stand in the FAISS index, in the rows' order, each once; rows that the view lacks are left
        out."""
        wanted = np.unique(np.asarray(allowed, dtype=np.int64))
        slots = np.searchsorted(self.rows, wanted, sorter=self._by_row)
        inside = slots < len(self.rows)
        positions: Positions = slots[inside] if self._by_row is None else self._by_row[slots[inside]]
        held: Positions = positions[np.asarray(self.rows)[positions] == wanted[inside]]
        return held

    def _nearest(self, vectors: Vectors, k: int, effort: float = 1.0) -> tuple[Scores, Positions]:
        """Scores and positions [n, k] among all vectors, with ``effort`` times the view's width; position -1 where that
        finds fewer."""
        if self.kind.exact and self.index.ntotal >= _FUSED_FROM:
            return self._fused(vectors, k)
        scores, found = self.index.search(vectors, k, params=self.kind.parameters(k, effort) if effort > 1 else None)
        return scores, found

    def _filtered(self, vectors: Vectors, k: int, positions: Positions) -> tuple[Scores, Positions]:
        """Scores and positions [n, k] as the plan says, and exactly for queries that would find fewer than ``k``."""
        plan = self.plan(positions)
        with self._refusing_nan():
            if plan.exact:
                return search_exactly(self.index, vectors, k, positions)
            allowed = np.zeros(self.index.ntotal, dtype=bool)
            allowed[positions] = True
            depth = plan.depth(k)
            step = max(1, _HITS_AT_ONCE // depth)
            parts = [only_allowed(*self._nearest(vectors[start:start + step], depth, plan.effort), k, allowed)
                     for start in range(0, len(vectors), step)]
            scores, found = (np.concatenate(part) for part in zip(*parts, strict=True))
            short = np.flatnonzero((found < 0).any(axis=1))
            if len(short):
                record(filter_redone_exactly=len(short))
                scores[short], found[short] = search_exactly(self.index, vectors[short], k, positions)
            return scores, found

    def _fused(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """The flat search without a matrix of scores, over FAISS's own copy of the vectors."""
        import torch

        from ...kernels.dispatch import taken
        from ...kernels.topk_search import topk_search

        numbers = import_faiss().rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d)
        stored = numbers.reshape(-1, self.index.d)
        with self._refusing_nan(), taken() as paths:
            scores, positions = topk_search(torch.from_numpy(vectors), torch.from_numpy(stored), k)
        record_kernels(paths)
        return scores.numpy(), positions.numpy()

    @contextmanager
    def _refusing_nan(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise StageError(str(error), where=f"view {self.kind}",
                             hint="the encoder gave NaN or infinity: check its dtype") from None


def _filled(view: FaissView, store: LanceStore, start: int) -> FaissView:
    """``view`` with the store's vectors from position ``start`` on."""
    for block in store.vectors(view.kind.column or "", start=start):
        view.index.add(np.ascontiguousarray(block))
    return view
