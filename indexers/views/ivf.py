"""Vectors in lists by their nearest centroid; a query looks into the nearest lists."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ...rag.models.encoding import Vectors
from ...rag.parts import Card, Count
from ..stores.lance.store import LanceStore
from .faiss_view import FaissKind, import_faiss

_TRAINING_PER_LIST = 64  # FAISS warns below 39


class IVF(FaissKind):
    """Inverted file: ``lists`` of vectors (0: four times the root of their number), of which a query looks into
    ``probes``."""

    card = Card("Jegou et al.", 2011, note="FAISS's IndexIVFFlat: whole vectors, no product quantization")
    stem = "faiss-ivf"
    faiss_class = "IndexIVFFlat"

    lists: Annotated[int, Field(ge=0)] = 0
    probes: Count = 16
    encoder: str = ""

    def empty(self, store: LanceStore, dimension: int) -> Any:
        faiss = import_faiss()
        lists = self.lists or max(1, int(4 * np.sqrt(len(store))))
        lists = max(1, min(lists, len(store)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
        index.train(_sample(store, self.encoder, lists * _TRAINING_PER_LIST, dimension))
        self.tune(index)
        return index

    def tune(self, index: Any) -> None:
        index.nprobe = self.probes
        index.make_direct_map()  # 8 bytes a vector: where in which list each position is, for filtered searches

    def parameters(self, k: int, effort: float) -> Any:
        return import_faiss().SearchParametersIVF(nprobe=math.ceil(effort * self.probes))


def _sample(store: LanceStore, encoder: str, size: int, dimension: int) -> Vectors:
    """At most ``size`` vectors, evenly spread over the store, the same ones each time; a zero for a store without
    passages."""
    step = max(1, -(-len(store) // size))
    start, kept = 0, []
    for block in store.vectors(encoder):
        kept.append(block[(-start) % step::step].copy())
        start += len(block)
    return np.ascontiguousarray(np.concatenate(kept)) if kept else np.zeros((1, dimension), np.float32)
