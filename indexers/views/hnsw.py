"""A graph from vector to near vector, walked by the query."""

from __future__ import annotations

import math
from typing import Any

from ...rag.parts import Card, Count
from ..stores.lance.store import LanceStore
from .faiss_view import FaissKind, import_faiss


class HNSW(FaissKind):
    """Hierarchical navigable small world graph: ``m`` links a vector, ``ef_construction`` and ``ef_search`` candidates
    at a time."""

    card = Card("Malkov and Yashunin", 2018, arxiv="1603.09320", note="FAISS's IndexHNSWFlat")
    stem = "faiss-hnsw"
    faiss_class = "IndexHNSWFlat"

    m: Count = 32
    ef_construction: Count = 200
    ef_search: Count = 128
    encoder: str = ""

    def empty(self, store: LanceStore, dimension: int) -> Any:
        faiss = import_faiss()
        index = faiss.IndexHNSWFlat(dimension, self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def tune(self, index: Any) -> None:
        index.hnsw.efSearch = self.ef_search

    def parameters(self, k: int, effort: float) -> Any:
        return import_faiss().SearchParametersHNSW(efSearch=max(k, math.ceil(effort * self.ef_search)))
