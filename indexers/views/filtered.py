"""Filtered search over a FAISS index: which way, and the two ways.

FAISS's own, a selector with the usual probes, loses recall without a word: the index looks where the query's neighbours
are, and few of those may be allowed. Here few allowed rows are compared one by one. For many the index is asked for so
many neighbours that enough of them should be allowed; what is nearer than the last of them was within the search's
reach, so a filter that has to do with the query is noticed: too few come back, and all allowed rows are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rag.models.encoding import Vectors
from ...rag.nouns import Scores

Positions = NDArray[np.int64]

EXACT_ROWS = 20_000
EXACT_SHARE = 50
"""Up to 20,000 allowed rows, or a fiftieth of all, are compared one by one: a third of a millisecond a query and 10,000
rows of 384."""
_BLOCK = 1 << 19
"""Numbers: about what a block of vectors, or of scores, takes in memory (2 MB), whatever the number of rows."""


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """How a search goes that may find ``allowed`` of ``total`` vectors: all of them compared, or by the index."""

    allowed: int
    total: int

    @property
    def exact(self) -> bool:
        return self.allowed <= max(EXACT_ROWS, self.total // EXACT_SHARE)

    @property
    def effort(self) -> float:
        """Times the usual probes (IVF) or search width (HNSW): the search then sees as many allowed vectors as without
        a filter."""
        return self.total / self.allowed

    def depth(self, k: int) -> int:
        """So many neighbours hold ``k`` allowed ones, unless the filter has to do with the query: expected ``k`` and
        three standard deviations of a binomial count."""
        return min(self.total, math.ceil(self.effort * (1.5 + math.sqrt(2.25 + k)) ** 2))

    def __str__(self) -> str:
        return describe([self])


def describe(plans: Sequence[FilterPlan]) -> str:
    """One line over the searches of a batch, such as ``exact over 212 of 20,000 rows``; filters that went the same way
    share a part."""
    ways: dict[str, list[FilterPlan]] = {}
    for plan in plans:
        ways.setdefault("exact" if plan.exact else "by the index", []).append(plan)
    return "; ".join(_one_way(way, taken) for way, taken in ways.items())


def _one_way(way: str, plans: Sequence[FilterPlan]) -> str:
    fewest, most = min(plan.allowed for plan in plans), max(plan.allowed for plan in plans)
    rows = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{way} over {rows} of {plans[0].total:,} rows" + (f" ({len(plans)} filters)" if len(plans) > 1 else "")


def search_exactly(index: Any, vectors: Vectors, k: int, positions: Positions) -> tuple[Scores, Positions]:
    """The ``k`` of the FAISS index's vectors at ``positions`` with the largest inner products with each query.

    ``vectors`` float32 [n, d]; ``k`` at most ``len(positions)``. Gives scores float32 and positions int64, both [n, k],
    best first; equal scores in the order of ``positions``. A score depends on its query and its vector alone, so equal
    vectors are equal. Memory is bounded whatever ``len(positions)`` is. Raises ValueError for a score that is NaN or
    plus infinity.
    """
    scores, found = np.zeros((len(vectors), 0), np.float32), np.zeros((len(vectors), 0), np.int64)
    step = max(1, _BLOCK // max(index.d, len(vectors)))
    for start in range(0, len(positions), step):
        block = positions[start:start + step]
        products = _inner_products(vectors, index.reconstruct_batch(block))
        if (refused := np.isnan(products) | np.isposinf(products)).any():
            raise ValueError(f"the score of the vector at position {block[refused.any(axis=0)][0]} is NaN or infinite")
        scores = np.concatenate([scores, products], axis=1)
        found = np.concatenate([found, np.broadcast_to(block, (len(vectors), len(block)))], axis=1)
        if scores.shape[1] > k:
            columns = _largest(scores, k)
            scores, found = np.take_along_axis(scores, columns, axis=1), np.take_along_axis(found, columns, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def only_allowed(scores: Scores, found: Positions, k: int, allowed: NDArray[np.bool_]) -> tuple[Scores, Positions]:
    """The first ``k`` allowed hits of each row of ``found``, in order; position -1 where there are fewer.

    ``scores`` float32 and ``found`` int64 are [n, depth], with -1 where the index found nothing; ``allowed`` is bool
    [total].
    """
    good = (found >= 0) & allowed[found]
    first = np.argsort(~good, axis=1, kind="stable")[:, :k]
    found = np.where(np.take_along_axis(good, first, axis=1), np.take_along_axis(found, first, axis=1), -1)
    return np.take_along_axis(scores, first, axis=1), found


def _inner_products(queries: Vectors, vectors: Vectors) -> Scores:
    """float32 [len(queries), len(vectors)], one pair at a time: a matrix product's last bits depend on where in the
    matrix a pair is."""
    # who has an index of it has it installed; its type stubs lack what is called here
    faiss: Any = import_module("faiss")
    queries = np.ascontiguousarray(queries)
    products = np.empty((len(vectors), len(queries)), np.float32)
    every_query = np.ascontiguousarray(np.broadcast_to(np.arange(len(queries), dtype=np.int64), products.shape))
    pointers = [faiss.swig_ptr(array) for array in (products, vectors, queries, every_query)]
    faiss.fvec_inner_products_by_idx(*pointers, queries.shape[1], len(vectors), len(queries))
    return np.ascontiguousarray(products.T)


def _largest(scores: Scores, k: int) -> Positions:
    """Columns int64 [n, k], ascending, of each row's ``k`` largest scores; of those that equal the least of them, the
    first."""
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    above, equal = scores > least, scores == least
    room = k - above.sum(axis=1, keepdims=True)
    kept = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(kept)[1].reshape(len(scores), k)
