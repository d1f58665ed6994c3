"""``topk_search`` on the GPU: the largest score of each bin of rows is all that is written, then the best bins are
scored row by row.

A bin that holds one of the k best rows has one of the k largest maxima, so that k bins are enough; ``_SPARE`` more
stand for the rounding in which the two passes may differ. The first pass is a matrix product (of codes, where there are
any); the second sums in float32, each score by itself, so that it depends on its query and its row alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codes import Codes
from .tiles import Dot, Tiles

_SPARE = 8
_ROWS = 128
"""Rows that one program of the first pass multiplies."""
_TENSOR_CORES, _FLOAT32 = Tiles(128, 64, 8, 3), Tiles(32, 16, 8, 1)
"""Queries of a program and components of a step (``rows`` and ``keys``), with tensor cores and without."""
_LOW = 0xFFFFFFFF


@triton.jit
def signs_of(words, rows, dims, inside, row_words):
    """Bits of int32 words as 1 and -1, int8 [rows, dims]."""
    word = tl.load(words + rows[:, None] * row_words + (dims // 32)[None, :], mask=inside, other=0)
    return (2 * ((word >> (dims % 32)[None, :]) & 1) - 1).to(tl.int8)


@triton.jit
def bin_maxima(
    queries, data, weights, maxima, query_count, row_count, bins, row_stride,
    WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BIN: tl.constexpr,
    KIND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Grid (query tiles x row tiles), queries first, so that neighbours read the same rows. KIND: floats, int8 or
    binary.

    A score that is NaN counts as infinite: its bin is then among the best, where the second pass finds it.
    """
    query_tiles = tl.cdiv(query_count, BLOCK_Q)
    query = (tl.program_id(0) % query_tiles).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    tile = tl.program_id(0) // query_tiles
    row = tile.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    scores = tl.zeros([BLOCK_Q, BLOCK_N], tl.float32 if KIND == "floats" else tl.int32)
    for start in range(0, WIDTH, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        asked = (query < query_count)[:, None] & (dims < WIDTH)[None, :]
        q = tl.load(queries + query[:, None] * WIDTH + dims[None, :], mask=asked, other=0)
        inside = (row < row_count)[:, None] & (dims < WIDTH)[None, :]
        if KIND == "floats":
            x = tl.load(data + row[:, None] * row_stride + dims[None, :], mask=inside, other=0.0).to(DOT)
            scores = tl.dot(q.to(DOT), tl.trans(x), scores, input_precision=PRECISION)
        else:
            if KIND == "int8":
                x = tl.load(data + row[:, None] * row_stride + dims[None, :], mask=inside, other=0)
            else:
                x = signs_of(data, row, dims, inside, row_stride)
            scores = tl.dot(q, tl.trans(x), scores, out_dtype=tl.int32)
    values = scores.to(tl.float32)
    if KIND != "floats":
        values *= tl.load(weights + row, mask=row < row_count, other=0.0)[None, :]
    values = tl.where(values != values, float("inf"), values)
    values = tl.where((row < row_count)[None, :], values, float("-inf"))
    best = tl.max(tl.reshape(values, [BLOCK_Q, BLOCK_N // BIN, BIN]), axis=2)
    place = tile * (BLOCK_N // BIN) + tl.arange(0, BLOCK_N // BIN)
    tl.store(maxima + query[:, None] * bins + place[None, :], best,
             mask=(query < query_count)[:, None] & (place < bins)[None, :])


@triton.jit
def score_bins(
    queries, data, chosen, scores, row_count, row_stride,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BIN: tl.constexpr,
):
    """Grid (chosen bins of a query, queries): the scores of a bin's rows, minus infinity beyond the last row."""
    place = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    row = tl.load(chosen + place) * BIN + tl.arange(0, BIN)
    total = tl.zeros([BIN], tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        q = tl.load(queries + tl.program_id(1).to(tl.int64) * WIDTH + dims, mask=dims < WIDTH, other=0.0).to(tl.float32)
        inside = (row < row_count)[:, None] & (dims < WIDTH)[None, :]
        x = tl.load(data + row[:, None] * row_stride + dims[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(x * q[None, :], axis=1)
    tl.store(scores + place * BIN + tl.arange(0, BIN), tl.where(row < row_count, total, float("-inf")))


@dataclass(frozen=True, slots=True)
class _First:
    """What the first pass multiplies, and how."""

    queries: Tensor
    data: Tensor
    weights: Tensor
    bin: int
    kind: str
    dtype: torch.dtype
    constants: dict[str, Any]


def topk_search(queries: Tensor, vectors: Tensor, k: int, codes: Codes | None, candidates: int) -> tuple[Tensor,
                                                                                                         Tensor]:
    """See ``kernels.topk_search.topk_search``; at least one query, k <= n, with codes the rows of ``candidates`` bins
    are rescored.

    Queries of the vectors' own dtype (bfloat16, float16) go through the tensor cores as they are; others make float32
    products.
    """
    queries, vectors = queries.contiguous(), vectors.contiguous()
    first = _floats(queries, vectors) if codes is None else _codes(queries, codes.to(vectors.device))
    maxima = _maxima(first, len(vectors))
    wanted = k + _SPARE if codes is None else candidates
    chosen = largest(maxima, min(wanted, maxima.shape[1]))[1].sort(dim=1)[0]
    scores = queries.new_empty((*chosen.shape, first.bin), dtype=torch.float32)
    score_bins[(chosen.shape[1], len(queries))](
        queries, vectors, chosen, scores, len(vectors), vectors.stride(0),
        WIDTH=vectors.shape[1], BLOCK_D=32 if vectors.dtype == torch.float32 else 64, BIN=first.bin, num_warps=4)
    if (scores.isnan() | scores.isposinf()).any():
        raise ValueError("topk_search: a score is NaN or infinite; remove vectors that are not finite")
    rows = (chosen[:, :, None] * first.bin + torch.arange(first.bin, device=chosen.device)).flatten(1)
    best, places = largest(scores.flatten(1), k)
    return best, rows.gather(1, places)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row of ``scores`` float32 [B, m] and their places, best first, equal ones in the order
    of their places.

    Score and place are made one whole number, since torch's own top-k does not say which of equal ones it takes.
    """
    bits = (scores + 0.0).view(torch.int32)  # the sum turns -0 into 0
    ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    places = torch.arange(scores.shape[1], device=scores.device)
    keys = (ascending << 32) | (_LOW - places)
    best = _LOW - (keys.topk(k, dim=1, sorted=True)[0] & _LOW)
    return scores.gather(1, best), best


def _floats(queries: Tensor, vectors: Tensor) -> _First:
    """Small bins for many queries: rescoring reads bins x queries rows, and writing maxima costs less than that."""
    dot = Dot.of(queries, vectors)
    return _First(queries, vectors, vectors, 128 if len(queries) <= 16 else 32, "floats", dot.dtype, dot.constants())


def _codes(queries: Tensor, codes: Codes) -> _First:
    whole = codes.query_codes(queries.float())
    data = codes.data if codes.kind == "int8" else codes.data.view(torch.int32)
    return _First(whole, data.contiguous(), codes.weights.contiguous(), 16, codes.kind, torch.int8,
                  {"DOT": tl.int8, "PRECISION": "ieee"})


def _maxima(first: _First, rows: int) -> Tensor:
    """The largest score of each bin, float32 [B, bins]."""
    count, width = first.queries.shape
    bins = triton.cdiv(rows, first.bin)
    maxima = first.queries.new_empty((count, bins), dtype=torch.float32)
    tile = _FLOAT32 if first.dtype == torch.float32 else _TENSOR_CORES
    block_q = min(tile.rows, max(16, triton.next_power_of_2(count)))
    grid = (triton.cdiv(count, block_q) * triton.cdiv(rows, _ROWS),)
    bin_maxima[grid](
        first.queries, first.data, first.weights, maxima, count, rows, bins, first.data.stride(0),
        WIDTH=width, BLOCK_Q=block_q, BLOCK_N=_ROWS, BLOCK_D=tile.keys, BIN=first.bin, KIND=first.kind,
        **first.constants,
        num_warps=tile.warps if block_q > 32 else 4, num_stages=tile.stages)
    return maxima
