"""Filtered dense search: recall@10 against all allowed vectors compared, fewest hits, and time, over flat, IVF and HNSW
views.

Vectors are minilm's for the passages of SciFact, Vaswani, DL19 and hotpotqa-100 (21,903), with --rows tiled with
Gaussian noise (standard deviation .02 a component) and normalised; queries are the collections' own. A filter allows a
random share of the rows, or the rows of 3 of 256 k-means cells: any three (ten seeded draws), or the three farthest
from the query. --index-only searches every filter by the index (what more than 20,000 allowed rows get), so that the
widened search is measured where there are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import Figures, alternate, arguments, collection, collection_index, median
from numpy.typing import NDArray
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import filtered, parse_view
from regard.indexers.views.faiss_view import FaissView
from regard.rag.dag.scope import Scope
from regard.rag.evaluation import read_beir
from regard.rag.models.encoding import Encoder, Vectors
from regard.rag.parts import part

COLLECTIONS = ("scifact", "vaswani", "msmarco-dl19", "hotpotqa-100")
KINDS = ("flat", "ivf", "hnsw")
SHARES = (0.5, 0.1, 0.01, 0.002)
CELLS = 256
K = 10
QUERIES = 200
Allowed = NDArray[np.int64]


class Table:
    """Vectors in memory, as a view is built from."""

    def __init__(self, vectors: Vectors) -> None:
        self.table = vectors
        self.rows = np.arange(len(vectors), dtype=np.int64)
        self.encoders = {"minilm": {"dimension": vectors.shape[1]}}

    def vectors(self, encoder: str, start: int = 0) -> Iterator[Vectors]:
        for first in range(start, len(self.table), 8192):
            yield self.table[first:first + 8192]

    def __len__(self) -> int:
        return len(self.table)


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--rows", type=int, help="tile the vectors to so many (default: as they are)")
    parser.add_argument("--index-only", action="store_true", help="never compare all allowed rows at once")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    if options.index_only:
        filtered.EXACT_ROWS, filtered.EXACT_SHARE = 0, 1 << 62
    figures = Figures()
    vectors, queries = load(options.cache)
    if options.rows:
        vectors = tiled(vectors, options.rows)
    filters = {**random_filters(len(vectors)), **cell_filters(vectors, queries)}
    for kind in options.kinds:
        view = parse_view(kind, "minilm").build(Table(vectors), Path())
        print(f"# {kind}, {len(vectors):,} vectors, {len(queries)} queries", flush=True)
        figures.show(f"{kind}, no filter, recall@{K}", unfiltered(view, vectors, queries))
        for name, groups in filters.items():
            measure(figures, f"{kind}, {name}", view, vectors, queries, groups)
    figures.exit()


def load(cache: Path) -> tuple[Vectors, Vectors]:
    """All passages' vectors, and those of ``QUERIES`` queries drawn from all collections."""
    passages: list[Vectors] = []
    texts: list[str] = []
    for name in COLLECTIONS:
        passages += LanceStore(collection_index(name, cache, encoder="minilm")).vectors("minilm")
        texts += [query.text for query in read_beir(collection(name)).queries]
    drawn = np.random.default_rng(0).permutation(len(texts))[:QUERIES]
    with Scope() as scope:
        queries = scope.open(part(Encoder, "minilm")).encode_queries([texts[i] for i in drawn])
    return np.concatenate(passages), queries


def tiled(vectors: Vectors, rows: int) -> Vectors:
    """``rows`` unit vectors near the given ones: float32 [rows, d]."""
    random = np.random.default_rng(0)
    out = np.tile(vectors, (-(-rows // len(vectors)), 1))[:rows]
    out[len(vectors):] += 0.02 * random.standard_normal(out[len(vectors):].shape, dtype=np.float32)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out


Groups = list[tuple[slice | list[int], Allowed]]
"""Queries that share a filter, and its rows in ascending order."""


def random_filters(n: int) -> dict[str, Groups]:
    random = np.random.default_rng(0)
    return {f"{100 * share:g} % allowed": [(slice(None), np.sort(random.choice(n, round(share * n), replace=False)))]
            for share in SHARES}


def cell_filters(vectors: Vectors, queries: Vectors) -> dict[str, Groups]:
    from regard.indexers.views.faiss_view import import_faiss

    sample = vectors[:: max(1, len(vectors) // 20_000)]
    means: Any = import_faiss().Kmeans(vectors.shape[1], CELLS, niter=10, seed=1, spherical=True)
    means.train(np.ascontiguousarray(sample))
    cell = np.concatenate([(vectors[i:i + 8192] @ means.centroids.T).argmax(axis=1)
                           for i in range(0, len(vectors), 8192)])
    random = np.random.default_rng(1)
    draws = [random.choice(CELLS, 3, replace=False) for _ in range(10)]
    any_three = [(list(range(i, len(queries), 10)), np.flatnonzero(np.isin(cell, draw)))
                 for i, draw in enumerate(draws)]
    farthest = np.argsort(queries @ means.centroids.T, axis=1)[:, :3]
    return {f"any 3 of {CELLS} cells": any_three,
            f"the 3 farthest of {CELLS} cells": [([i], np.flatnonzero(np.isin(cell, far)))
                                                 for i, far in enumerate(farthest[:40])]}


def unfiltered(view: FaissView, vectors: Vectors, queries: Vectors) -> float:
    """What the view finds by itself: with filters that leave more than 20,000 rows it is not asked for more."""
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    found = view.search(queries, K)[0]
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def measure(figures: Figures, name: str, view: FaissView, vectors: Vectors, queries: Vectors, groups: Groups) -> None:
    recalls, missing, plans = [], 0, []
    for some, allowed in groups:
        rows, _ = view.search(queries[some], K, allowed)
        plans.append(view.plan(allowed))
        exact = allowed[np.argsort(-(queries[some] @ vectors[allowed].T), axis=1, kind="stable")[:, :K]]
        recalls += [len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]
        missing += exact.size - int((rows >= 0).sum())
    some, allowed = groups[0]
    alone, together = alternate(lambda: view.search(queries[:1], K, allowed),
                                lambda: view.search(queries[:64], K, allowed), 5)
    print(f"# {name}: {filtered.describe(plans)}; {1000 * median(alone):.2f} ms a query alone, "
          f"{1000 * median(together) / len(queries[:64]):.2f} ms in a batch of 64", flush=True)
    figures.show(f"{name}, recall@{K}", float(np.mean(recalls)), bar=(">=", 0.98))
    figures.show(f"{name}, hits missing", missing, bar=("<=", 0), digits=0)


if __name__ == "__main__":
    main()
