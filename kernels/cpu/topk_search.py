"""Inner product fused with top-k: every thread keeps, for every query, the rows that beat its k-th best so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import ROWS, jit, multiply
from .decoding import decode, decode_block
from .panels import Array, Panels
from .workers import share_rows

_PRODUCTS_A_CHUNK = 1 << 25
"""Multiplications in a chunk of rows: a tenth of a millisecond, long against handing it out and short against a search."""


@dataclass(slots=True)
class _Best:
    """One thread's candidates. ``scores`` float32 and ``rows`` int64 [queries, capacity], the first ``counts`` [queries] of them filled,
    ascending by row; a row that is not above ``thresholds`` float32 [panels, lanes] cannot be among the best."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    scratch: tuple[Array, Array, Array]


def best_rows(
    data: Array, weights: NDArray[np.float32], panels: Panels, queries: int, k: int, components: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` <= n rows of ``data`` [n, ...] with the highest scores for each of ``queries``: scores and rows [queries, k], best first.

    ``data`` holds float32, the bits of float16 (int16) or of bfloat16 (uint16), int8 codes, or packed signs (uint64); a score is the product
    with ``panels``, times the row's weight where ``weights`` is not empty. Equal scores by lower row. Raises ValueError for a score
    that is NaN or plus infinity.
    """
    # what no comparison with NaN rejects is kept, so that at first every row is
    thresholds = np.full(panels.start.shape, np.nan, np.float32)
    thresholds.reshape(-1)[queries:] = np.inf
    capacity = 2 * k + ROWS

    def new_state() -> _Best:
        rows, products = panels.block(components)
        return _Best(np.empty((queries, capacity), np.float32), np.empty((queries, capacity), np.int64), np.zeros(queries, np.int64),
                     thresholds.copy(), (rows, products, np.empty(panels.lanes, np.float32)))

    def work(state: _Best, first: int, last: int) -> None:
        broken = _scan(data, weights, first, last, panels.data, panels.start, k, *state.scratch, state.thresholds, state.scores, state.rows,
                       state.counts)
        if broken >= 0:
            raise ValueError(f"topk_search: the score of row {broken} is NaN or infinite; remove vectors that are not finite")

    row_cost = panels.data.shape[0] * panels.lanes * components
    chunk = max(ROWS, min(1 << 14, _PRODUCTS_A_CHUNK // row_cost) // ROWS * ROWS)
    return _merged(share_rows(len(data), chunk, new_state, work), k)


def _merged(states: list[_Best], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best ``k`` over all threads."""
    queries, capacity = states[0].scores.shape
    filled = np.concatenate([np.arange(capacity) < state.counts[:, None] for state in states], axis=1)
    scores = np.concatenate([state.scores for state in states], axis=1)
    rows = np.concatenate([state.rows for state in states], axis=1)
    best_scores, best = np.empty((queries, k), np.float32), np.empty((queries, k), np.int64)
    for query in range(queries):
        some, where = scores[query, filled[query]], rows[query, filled[query]]
        order = np.lexsort((where, -some))[:k]
        best_scores[query], best[query] = some[order], where[order]
    return best_scores, best


def exact_scores(
    data: Array, panels: Panels, candidates: NDArray[np.int64], components: int,
) -> NDArray[np.float32]:
    """Scores float32 [queries, m] of the rows that ``candidates`` int64 [queries, m] names, to the bit those of :func:`best_rows`.

    ``panels`` holds each query alone: [queries, d, LANES], the query in the first lane.
    """
    scores = np.empty(candidates.shape, np.float32)

    def work(scratch: tuple[Array, Array], first: int, last: int) -> None:
        _rescore(data, panels.data, panels.start, candidates, first, last, *scratch, scores)

    cost = candidates.shape[1] * panels.lanes * components
    share_rows(len(candidates), max(1, _PRODUCTS_A_CHUNK // max(1, cost)), lambda: panels.block(components), work)
    return scores


@jit
def _scan(
    data: Any, weights: Any, first: int, last: int, panels: Any, start: Any, k: int, decoded: Any, products: Any, values: Any,
    thresholds: Any, scores: Any, rows: Any, counts: Any,
) -> int:
    """Offer rows ``first`` to ``last`` to every query's candidates. Gives the first row with a broken score, or -1."""
    lanes = products.shape[1]
    for block in range(first, last, ROWS):
        size = min(ROWS, last - block)
        whole = decode_block(data, block, size, decoded)
        for p in range(len(panels)):
            multiply(whole, panels[p], start[p], products)
            for r in range(size):
                weight = weights[block + r] if len(weights) else np.float32(1)
                above = np.int32(0)
                for lane in range(lanes):
                    value = np.float32(products[r, lane]) * weight
                    values[lane] = value
                    above |= np.int32(not (value <= thresholds[p, lane]))
                if above and not _keep(values, block + r, p * lanes, thresholds[p], k, scores, rows, counts):
                    return block + r
    return -1


@jit
def _keep(values: Any, row: int, first_query: int, thresholds: Any, k: int, scores: Any, rows: Any, counts: Any) -> bool:
    """Append the row where it is above a query's threshold; a full list shrinks to its best ``k``. False for a broken score."""
    for lane in range(len(values)):
        value = values[lane]
        if value <= thresholds[lane]:
            continue
        if np.isnan(value) or value == np.inf:
            return False
        query = first_query + lane
        count = counts[query]
        scores[query, count] = value
        rows[query, count] = row
        counts[query] = count + 1
        if count + 1 == scores.shape[1]:
            thresholds[lane] = _shrink(scores[query], rows[query], k)
            counts[query] = k
    return True


@jit
def _shrink(scores: Any, rows: Any, k: int) -> float:
    """Move the ``k`` highest scores to the front, in their order, the first of equal ones; gives the lowest of them."""
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    equal = k - np.sum(scores > lowest)
    kept = 0
    for i in range(len(scores)):
        if scores[i] < lowest or (scores[i] == lowest and equal == 0):
            continue
        equal -= scores[i] == lowest
        scores[kept] = scores[i]
        rows[kept] = rows[i]
        kept += 1
    return lowest


@jit
def _rescore(
    data: Any, panels: Any, start: Any, candidates: Any, first: int, last: int, decoded: Any, products: Any, scores: Any,
) -> None:
    """The exact scores of the candidates of queries ``first`` to ``last``."""
    for query in range(first, last):
        for block in range(0, candidates.shape[1], ROWS):
            size = min(ROWS, candidates.shape[1] - block)
            for r in range(size):
                decode(data, candidates[query, block + r], decoded, r)
            multiply(decoded, panels[query], start[query], products)
            for r in range(size):
                scores[query, block + r] = products[r, 0]
