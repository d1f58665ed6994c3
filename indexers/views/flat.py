"""Every vector compared."""

from __future__ import annotations

from typing import Any

from ..stores.lance.store import LanceStore
from .faiss_view import FaissKind, import_faiss


class Flat(FaissKind):
    """Exact inner product: with many vectors by ``kernels.topk_search`` over FAISS's own copy of them."""

    stem = "faiss-flat"
    faiss_class = "IndexFlatIP"
    exact = True

    encoder: str = ""

    def empty(self, store: LanceStore, dimension: int) -> Any:
        return import_faiss().IndexFlatIP(dimension)
