"""Inner product fused with top-k: every thread keeps, for every query, the rows that beat its k-th best so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codes import Codes
from .blocks import ROWS, jit, multiply
from .decoding import WORD, decode, decode_block, stored
from .keys import LOWEST, key_of, score_of, scores_and_rows
from .panels import Array, Panels, code_panels, float_panels
from .workers import share_rows

_PRODUCTS_A_CHUNK = 1 << 23
"""Multiplications that take about a tenth of a millisecond: long against handing a chunk out, short against a
search."""
_NONE = np.empty(0, np.float32)


@dataclass(slots=True)
class _Best:
    """One thread's candidates: ``keys`` int64 [queries, capacity], the first ``counts`` [queries] of them filled. A row
    that is not above ``thresholds`` float32 [panels, lanes] cannot be among the best."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    scratch: tuple[Array, Array, Array]


def topk_search(queries: Tensor, vectors: Tensor, k: int, codes: Codes | None, candidates: int) -> tuple[Tensor,
                                                                                                         Tensor]:
    """See ``kernels.topk_search.topk_search``; ``queries`` float32, at least one of them, k <= n, ``candidates`` >= k
    rows for codes."""
    data, floats = stored(vectors), np.ascontiguousarray(queries.numpy())
    if codes is None:
        scores, rows = best_rows(data, _NONE, float_panels(floats), len(floats), k, data.shape[1])
        return torch.from_numpy(scores), torch.from_numpy(rows)
    packed = codes.data.contiguous().numpy()
    components = packed.shape[1] * (1 if codes.kind == "int8" else WORD)
    panels = code_panels(codes.query_codes(queries).numpy(), components)
    words = packed if codes.kind == "int8" else packed.view(np.uint64)
    _, rows = best_rows(words, codes.weights.contiguous().numpy(), panels, len(floats), candidates, components)
    rows.sort(axis=1)
    scores = exact_scores(data, floats, rows)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return torch.from_numpy(np.take_along_axis(scores, order, axis=1)), torch.from_numpy(np.take_along_axis(rows, order,
                                                                                                            axis=1))


def best_rows(
    data: Array, weights: NDArray[np.float32], panels: Panels, queries: int, k: int, components: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` <= n rows of ``data`` [n, ...] with the highest scores for each of ``queries``: scores and rows
    [queries, k], best first.

    ``data`` is what ``decode`` reads, ``components`` numbers a row; a score is the product with ``panels``, times the
    row's weight where ``weights`` is not empty. Equal scores by lower row. Raises ValueError for a score that is NaN or
    plus infinity.
    """
    # what no comparison with NaN rejects is kept, so that at first every row is
    thresholds = np.full(panels.start.shape, np.nan, np.float32)
    thresholds.reshape(-1)[queries:] = np.inf
    capacity = 2 * k + ROWS

    def new_state() -> _Best:
        rows, products = panels.block(components)
        return _Best(np.full((queries, capacity), LOWEST), np.zeros(queries, np.int64), thresholds.copy(),
                     (rows, products, np.empty(panels.lanes, np.float32)))

    def work(state: _Best, first: int, last: int) -> None:
        broken = _scan(data, weights, first, last, panels.data, panels.start, k, *state.scratch, state.thresholds,
                       state.keys, state.counts)
        if broken >= 0:
            raise ValueError(f"topk_search: the score of row {broken} is NaN or infinite; remove vectors that are not "
                             f"finite")

    states = share_rows(len(data), _rows_a_chunk(len(data), panels.data.size), new_state, work)
    for state in states:  # what lies beyond was let go
        state.keys[np.arange(capacity) >= state.counts[:, None]] = LOWEST
    keys = np.sort(np.concatenate([state.keys for state in states], axis=1), axis=1)
    return scores_and_rows(keys[:, :-k - 1:-1])


def _rows_a_chunk(rows: int, products: int) -> int:
    """Chunks that are worth handing out, and among many rows not too many of them."""
    return max(_PRODUCTS_A_CHUNK // products, min(rows // 64, 1 << 14), ROWS) // ROWS * ROWS


def exact_scores(data: Array, queries: NDArray[np.float32], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores float32 [queries, m] of the rows that ``candidates`` int64 [queries, m] names, to the bit those of
    :func:`best_rows`."""
    scores = np.empty(candidates.shape, np.float32)
    components = queries.shape[1]

    def new_state() -> tuple[Array, Array, Array, Array]:
        alone = float_panels(queries[:1])
        return alone.data[0], alone.start[0], *alone.block(components)

    def work(scratch: tuple[Array, Array, Array, Array], first: int, last: int) -> None:
        _rescore(data, queries, candidates, first, last, *scratch, scores)

    share_rows(len(queries), max(1, _PRODUCTS_A_CHUNK // (candidates.shape[1] * components)), new_state, work)
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError("topk_search: a score is NaN or infinite; remove vectors that are not finite")
    return scores


@jit
def _scan(
    data: Any, weights: Any, first: int, last: int, panels: Any, start: Any, k: int, decoded: Any, products: Any,
    values: Any,
    thresholds: Any, keys: Any, counts: Any,
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
                if above and not _keep(values, block + r, p * lanes, thresholds[p], k, keys, counts):
                    return block + r
    return -1


@jit
def _keep(values: Any, row: int, first_query: int, thresholds: Any, k: int, keys: Any, counts: Any) -> bool:
    """Add the row where it is above a query's threshold; a full list shrinks to its best ``k``. False for a broken
    score.

    A thread sees rows in ascending order, so that one that only equals the threshold comes after k that are as good.
    """
    for lane in range(len(values)):
        value = values[lane]
        if value <= thresholds[lane]:
            continue
        if np.isnan(value) or value == np.inf:
            return False
        query = first_query + lane
        keys[query, counts[query]] = key_of(value, row)
        counts[query] += 1
        if counts[query] == keys.shape[1]:
            best = np.partition(keys[query], len(keys[query]) - k)[len(keys[query]) - k:]
            keys[query, :k] = best
            counts[query] = k
            thresholds[lane] = score_of(best[0])
    return True


@jit
def _rescore(
    data: Any, queries: Any, candidates: Any, first: int, last: int, panel: Any, start: Any, decoded: Any,
    products: Any, scores: Any,
) -> None:
    """The exact scores of the candidates of queries ``first`` to ``last``, each query alone in the first lane of
    ``panel``."""
    for query in range(first, last):
        panel[:, 0] = queries[query]
        for block in range(0, candidates.shape[1], ROWS):
            size = min(ROWS, candidates.shape[1] - block)
            for r in range(size):
                decode(data, candidates[query, block + r], decoded, r)
            multiply(decoded, panel, start, products)
            for r in range(size):
                scores[query, block + r] = products[r, 0]
