"""Another distribution's view kind: every vector compared, by numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from regard.indexers.views import ViewKind

VIEWS = {"exact": "acme_views:Exact"}


class Exact(ViewKind):
    queries = "vectors"
    exact = True

    encoder: str = ""

    def build(self, store: Any, home: Path, progress: bool | None = None) -> ExactView:
        none = np.zeros((0, store.encoders[self.encoder]["dimension"]), np.float32)
        return ExactView(store.rows, np.concatenate([none, *store.vectors(self.encoder)]))

    def load(self, folder: Path, rows: np.ndarray) -> ExactView:
        return ExactView(rows, np.load(folder / "vectors.npy"))


class ExactView:
    def __init__(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        self.rows, self.vectors = rows, vectors

    def save(self, folder: Path) -> None:
        np.save(folder / "vectors.npy", self.vectors)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        held = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(np.isin(self.rows, allowed))
        scores, rows = queries @ self.vectors[held].T, self.rows[held]
        best = np.lexsort((np.broadcast_to(rows, scores.shape), -scores), axis=1)[:, :k]
        return rows[best], np.take_along_axis(scores, best, axis=1)
