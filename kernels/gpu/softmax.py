"""The first phase of every row kernel: each row's log-sum-exp over the context's and its own keys, and with values its
output.

The context is cut in splits, which run side by side (flash decoding); the own keys are one more. Each program takes a
tile of the stacked rows of one KV head, so that a key that was read serves its whole group of query heads. The splits'
results are combined in their order: no atomics, the same bits every time. Scores are kept in base 2 (``log2(e)`` is
folded into the scale).

Indices are 32 bits wide and places in memory 64: a token's number times a stride may exceed 2^31 in a large or strided
tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scores import Reach
from .tiles import Dot, Tiles, block_width, dense_last

_PROGRAMS_WANTED = 264
"""Two for each multiprocessor of an H100 or H200; fixed, so that a result does not depend on the GPU's size."""

_SCORES_ONLY = {128: Tiles(64, 64, 4, 3), 256: Tiles(64, 64, 8, 3), 512: Tiles(64, 64, 8, 3)}
_WITH_VALUES = {128: Tiles(64, 64, 4, 3), 256: Tiles(64, 32, 8, 3), 512: Tiles(32, 64, 8, 2)}

_COMBINED_ROWS = 16
"""Rows that one program of :func:`combine_splits` combines."""


@triton.jit
def scores_of(left, right, inner, outer, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):
    """``left @ right.T`` [rows of left, rows of right] as scores in base 2."""
    product = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    if SOFTCAP:
        product = outer * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * inner * product)))  # tanh, which Triton does not have
    else:
        product *= inner
    return product


@triton.jit
def load_rows(base, stacked, rows, stride_head, stride_row, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TOTAL,
              DOT: tl.constexpr):
    """The queries [BLOCK, BLOCK_D] of stacked rows, where ``base`` is at the first query head of their KV head."""
    lane = tl.arange(0, BLOCK_D)
    place = (stacked // rows).to(tl.int64) * stride_head + (stacked % rows).to(tl.int64) * stride_row
    return tl.load(base + place[:, None] + lane[None, :], mask=(stacked < TOTAL)[:, None] & (lane < WIDTH)[None, :],
                   other=0.0).to(DOT)


@triton.jit
def load_tokens(base, tokens, end, stride_token, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, DOT: tl.constexpr):
    """Keys or values [BLOCK, BLOCK_D] of ``tokens``, zero from ``end`` on."""
    lane = tl.arange(0, BLOCK_D)
    here = (tokens < end)[:, None] & (lane < WIDTH)[None, :]
    return tl.load(base + tokens.to(tl.int64)[:, None] * stride_token + lane[None, :], mask=here, other=0.0).to(DOT)


@triton.jit
def accumulate(scores, value, top, total, output, HAS_VALUE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """One step of the running softmax: the largest score, the sum below it, and the weighted values."""
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    at = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row that has seen nothing yet
    weights = tl.exp2(scores - at[:, None])
    shrink = tl.exp2(top - at)
    total = total * shrink + tl.sum(weights, axis=1)
    if HAS_VALUE:
        output = output * shrink[:, None] + tl.dot(weights.to(DOT), value, input_precision=PRECISION)
    return new_top, total, output


@triton.jit
def partial_softmax(
    query, key, value, own_key, own_value, weights, visible, row_positions, context_positions, own_positions,
    partial_lse, partial_output,
    rows, total_rows, columns, own, splits, per_split, window, inner, outer,
    query_head, query_row, key_head, key_token, value_head, value_token,
    own_key_head, own_key_token, own_value_head, own_value_token,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_VALUE: tl.constexpr, HAS_WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (splits + 1, row tiles, KV heads); the last split is the own keys."""
    split = tl.program_id(0)
    kv_head = tl.program_id(2).to(tl.int64)
    stacked = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = stacked < total_rows
    needed = True
    if not HAS_VALUE:  # without an output only rows that have weight matter
        weight = tl.load(weights + kv_head * total_rows + stacked, mask=inside, other=0.0)
        needed = tl.max(tl.abs(weight), axis=0) > 0
    if needed:
        row = stacked % rows
        q = load_rows(query + kv_head * GROUP * query_head, stacked, rows, query_head, query_row, WIDTH, BLOCK_D,
                      total_rows, DOT)
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        output = tl.zeros([BLOCK_M, BLOCK_D if HAS_VALUE else 1], tl.float32)
        if HAS_WINDOW:
            row_position = tl.load(row_positions + row)
        if split < splits:
            first = split * per_split
            last = tl.minimum(first + per_split, columns)
            for start in range(first, last, BLOCK_N):
                tokens = start + tl.arange(0, BLOCK_N)
                k = load_tokens(key + kv_head * key_head, tokens, last, key_token, WIDTH, BLOCK_D, DOT)
                scores = scores_of(q, k, inner, outer, SOFTCAP, PRECISION)
                seen = (tokens < last)[None, :]
                if HAS_WINDOW:
                    seen &= row_position[:, None] - tl.load(context_positions + tokens, mask=tokens < last,
                                                            other=0)[None, :] < window
                v = k
                if HAS_VALUE:
                    v = load_tokens(value + kv_head * value_head, tokens, last, value_token, WIDTH, BLOCK_D, DOT)
                scores = tl.where(seen, scores, float("-inf"))
                top, total, output = accumulate(scores, v, top, total, output, HAS_VALUE, DOT, PRECISION)
        else:
            for start in tl.range(0, own, BLOCK_N, num_stages=1):  # short, and its mask would take too many registers
                tokens = start + tl.arange(0, BLOCK_N)
                k = load_tokens(own_key + kv_head * own_key_head, tokens, own, own_key_token, WIDTH, BLOCK_D, DOT)
                scores = scores_of(q, k, inner, outer, SOFTCAP, PRECISION)
                seen = tl.load(visible + row.to(tl.int64)[:, None] * own + tokens[None, :],
                               mask=(tokens < own)[None, :], other=0) != 0
                if HAS_WINDOW:
                    seen &= row_position[:, None] - tl.load(own_positions + tokens, mask=tokens < own,
                                                            other=0)[None, :] < window
                v = k
                if HAS_VALUE:
                    v = load_tokens(own_value + kv_head * own_value_head, tokens, own, own_value_token, WIDTH, BLOCK_D,
                                    DOT)
                scores = tl.where(seen, scores, float("-inf"))
                top, total, output = accumulate(scores, v, top, total, output, HAS_VALUE, DOT, PRECISION)
        place = (kv_head * (splits + 1) + split) * total_rows + stacked
        tl.store(partial_lse + place, tl.where(total > 0, top + tl.log2(total), float("-inf")), mask=inside)
        if HAS_VALUE:
            lane = tl.arange(0, BLOCK_D)
            output = output / tl.where(total > 0, total, 1.0)[:, None]
            tl.store(partial_output + place[:, None] * WIDTH + lane[None, :], output,
                     mask=inside[:, None] & (lane < WIDTH)[None, :])


@triton.jit
def combine_splits(
    partial_lse, partial_output, lse, output, total_rows, parts,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, PARTS: tl.constexpr, HAS_VALUE: tl.constexpr,
):
    """Grid (row tiles, KV heads): the rows' log-sum-exp over all splits, and their output."""
    kv_head = tl.program_id(1).to(tl.int64)
    stacked = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = stacked < total_rows
    part = tl.arange(0, PARTS)
    places = (kv_head * parts + part[:, None]) * total_rows + stacked[None, :]
    each = tl.load(partial_lse + places, mask=(part < parts)[:, None] & inside[None, :], other=float("-inf"))
    top = tl.max(each, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    whole = top + tl.log2(tl.sum(tl.exp2(each - top[None, :]), axis=0))
    tl.store(lse + kv_head * total_rows + stacked, whole, mask=inside)
    if HAS_VALUE:
        lane = tl.arange(0, BLOCK_D)
        here = inside[:, None] & (lane < WIDTH)[None, :]
        mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for number in range(parts):
            place = (kv_head * parts + number) * total_rows + stacked
            share = tl.exp2(tl.load(partial_lse + place, mask=inside, other=float("-inf")) - whole)
            mixed += share[:, None] * tl.load(partial_output + place[:, None] * WIDTH + lane[None, :], mask=here,
                                              other=0.0)
        tl.store(output + (kv_head * total_rows + stacked)[:, None] * WIDTH + lane[None, :],
                 mixed.to(output.dtype.element_ty), mask=here)


@dataclass(frozen=True, slots=True)
class StackedRows:
    """The queries of a call and what both phases need to know of them."""

    query: Tensor
    key: Tensor
    weights: Tensor
    lse: Tensor
    reach: Reach | None
    inner: float
    outer: float
    dot: Dot
    constants: dict[str, Any]
    """What is the same in all of a call's kernels: GROUP, WIDTH, BLOCK_D, HAS_WINDOW, SOFTCAP, DOT, PRECISION."""

    @property
    def total(self) -> int:
        """Stacked rows of a KV head."""
        return self.lse.shape[1]

    def window(self) -> tuple[Tensor, Tensor, int]:
        """Positions of the rows and of the context, and the window; tensors that nothing reads where there is none."""
        if self.reach is None:
            return self.lse, self.lse, 0
        return self.reach.rows.contiguous(), self.reach.context.contiguous(), self.reach.window


def softmax_rows(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None,
    reach: Reach | None, values: tuple[Tensor, Tensor] | None = None,
) -> tuple[StackedRows, Tensor]:
    """The first phase: the rows with their log-sum-exp, and their output [H, R, d] in ``query``'s dtype (empty without
    ``values``).

    Without values, the log-sum-exp of a tile of rows without weight is left undefined.
    """
    query, key, own_key = dense_last(query), dense_last(key), dense_last(own_key)
    value, own_value = (dense_last(values[0]), dense_last(values[1])) if values else (key, own_key)
    heads, rows, width = query.shape
    kv_heads, columns, own = key.shape[0], key.shape[1], own_key.shape[1]
    total = heads // kv_heads * rows
    dot = Dot.of(query, key, own_key, value, own_value)
    log2e = math.log2(math.e)
    inner, outer = (scale * log2e, 0.0) if softcap is None else (scale / softcap, softcap * log2e)
    constants = {
        "GROUP": heads // kv_heads, "WIDTH": width, "BLOCK_D": block_width(width), "HAS_WINDOW": reach is not None,
        "SOFTCAP": softcap is not None, **dot.constants(),
    }
    tiles = dot.tiles(_WITH_VALUES if values else _SCORES_ONLY, width, query.device)
    row_tiles = triton.cdiv(total, tiles.rows)
    splits, per_split = _splits(columns, tiles.keys, row_tiles * kv_heads)
    lse = query.new_empty(kv_heads, total, dtype=torch.float32)
    partial_lse = query.new_empty(kv_heads, splits + 1, total, dtype=torch.float32)
    partial_output = query.new_empty((*partial_lse.shape, width) if values else 0, dtype=torch.float32)
    output = torch.empty(query.shape if values else 0, dtype=query.dtype, device=query.device)
    result = StackedRows(query, key, row_weights.to(torch.float32).reshape(kv_heads, total).contiguous(), lse, reach,
                         inner, outer, dot,
                  constants)
    row_positions, context_positions, window = result.window()
    partial_softmax[(splits + 1, row_tiles, kv_heads)](
        query, key, value, own_key, own_value, result.weights, visible.contiguous().view(torch.uint8),
        row_positions, context_positions, lse if reach is None else reach.own.contiguous(), partial_lse, partial_output,
        rows, total, columns, own, splits, per_split, window, inner, outer,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        own_key.stride(0), own_key.stride(1), own_value.stride(0), own_value.stride(1),
        **constants, BLOCK_M=tiles.rows, BLOCK_N=tiles.keys, HAS_VALUE=values is not None, num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    combine_splits[(triton.cdiv(total, _COMBINED_ROWS), kv_heads)](
        partial_lse, partial_output, lse, output, total, splits + 1, WIDTH=width, BLOCK_D=constants["BLOCK_D"],
        BLOCK_M=_COMBINED_ROWS,
        PARTS=triton.next_power_of_2(splits + 1), HAS_VALUE=values is not None, num_warps=4,
    )
    return result, output


def _splits(columns: int, tile: int, programs: int) -> tuple[int, int]:
    """How many splits of how many columns keep the GPU busy beside ``programs`` row tiles; none where there is no
    context."""
    if columns == 0:
        return 0, tile
    wanted = max(1, _PROGRAMS_WANTED // programs)
    per_split = triton.cdiv(triton.cdiv(columns, wanted), tile) * tile
    return triton.cdiv(columns, per_split), per_split
