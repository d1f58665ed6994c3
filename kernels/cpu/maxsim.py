"""MaxSim: query tokens side by side in the lanes, passages' tokens streaming by, one running maximum a lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codes import quantize_tokens
from .blocks import ROWS, jit, multiply
from .decoding import decode_block, stored
from .panels import Array, code_panels, float_panels
from .workers import share_rows

_PRODUCTS_A_CHUNK = 1 << 25
_NONE = np.empty(0, np.float32)


def maxsim(batch: Tensor, tokens: Tensor, offsets: Tensor, scales: Tensor | None) -> Tensor:
    """See ``kernels.maxsim.maxsim``; ``batch`` float32 [B, Q, d] with B, Q >= 1, at least one passage."""
    queries = batch.flatten(0, 1)
    data, bounds, scores = stored(tokens), offsets.numpy(), np.zeros((len(batch), len(offsets) - 1), np.float32)
    if scales is None:
        panels, factors, weights = float_panels(queries.numpy()), np.ones(len(queries), np.float32), _NONE
    else:
        codes, query_scales = quantize_tokens(queries)
        panels = code_panels(codes.numpy(), tokens.shape[1])
        factors, weights = query_scales.numpy(), scales.contiguous().numpy()

    def new_state() -> tuple[Array, Array, Array]:
        decoded, products = panels.block(tokens.shape[1])
        return decoded, np.zeros((len(panels.data), *products.shape), products.dtype), np.empty(panels.start.shape,
                                                                                                np.float32)

    def work(scratch: tuple[Array, Array, Array], first: int, last: int) -> None:
        _score(data, weights, bounds, first, last, panels.data, panels.start, factors, *scratch, scores)

    share_rows(scores.shape[1], _passages_a_chunk(bounds, panels.data), new_state, work)
    return torch.from_numpy(scores)


def _passages_a_chunk(bounds: Array, panels: Array) -> int:
    products = max(1, int(bounds[-1] - bounds[0])) * panels.size
    return max(1, (len(bounds) - 1) * _PRODUCTS_A_CHUNK // products)


@jit
def _score(
    data: Any, weights: Any, bounds: Any, first: int, last: int, panels: Any, start: Any, factors: Any, decoded: Any,
    products: Any,
    maxima: Any, scores: Any,
) -> None:
    """The scores of passages ``first`` to ``last``. A block takes tokens as they come, of several passages where these
    are short."""
    passage = first
    maxima[:] = -np.inf
    for block in range(bounds[first], bounds[last], ROWS):
        size = min(ROWS, bounds[last] - block)
        whole = decode_block(data, block, size, decoded)
        for p in range(len(panels)):
            multiply(whole, panels[p], start[p], products[p])
        for r in range(size):
            while bounds[passage + 1] == block + r:
                _finish(maxima, factors, bounds[passage + 1] - bounds[passage], scores[:, passage])
                passage += 1
            weight = weights[block + r] if len(weights) else np.float32(1)
            for p in range(len(panels)):
                for lane in range(maxima.shape[1]):
                    value = np.float32(products[p, r, lane]) * weight
                    if value > maxima[p, lane] or value != value:  # a NaN stays
                        maxima[p, lane] = value
    for rest in range(passage, last):
        _finish(maxima, factors, bounds[rest + 1] - bounds[rest], scores[:, rest])


@jit
def _finish(maxima: Any, factors: Any, tokens: int, scores: Any) -> None:
    """One passage's score for each query, and the maxima ready for the next passage."""
    if tokens == 0:
        return
    flat = maxima.reshape(-1)
    each = len(factors) // len(scores)
    for query in range(len(scores)):
        total = np.float32(0)
        for i in range(query * each, (query + 1) * each):
            total += factors[i] * flat[i]
        scores[query] = total
    maxima[:] = -np.inf
