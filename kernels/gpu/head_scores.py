"""``head_scores`` on the GPU: one program a KV head and span; nothing is written per token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scores import Reach
from .softmax import load_rows, load_tokens, scores_of, softmax_rows
from .tiles import Tiles

_TILES = {128: Tiles(64, 64, 4, 2), 256: Tiles(64, 64, 4, 2), 512: Tiles(64, 64, 8, 2)}


@triton.jit
def sum_spans(
    query, key, weights, lse, row_positions, context_positions, starts, stops, result,
    rows, total_rows, window, inner, outer, query_head, query_row, key_head, key_token,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEADS: tl.constexpr, HAS_WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Grid (spans, KV heads). ``HEADS`` is GROUP rounded up to a power of two."""
    span = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    first = tl.load(starts + span).to(tl.int32)
    last = tl.load(stops + span).to(tl.int32)
    head = tl.arange(0, HEADS)
    sums = tl.zeros([HEADS], tl.float32)
    for start in range(first, last, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        k = load_tokens(key + kv_head * key_head, tokens, last, key_token, WIDTH, BLOCK_D, DOT)
        if HAS_WINDOW:
            position = tl.load(context_positions + tokens, mask=tokens < last, other=0)
        for first_row in range(0, total_rows, BLOCK_M):
            stacked = first_row + tl.arange(0, BLOCK_M)
            inside = stacked < total_rows
            q = load_rows(query + kv_head * GROUP * query_head, stacked, rows, query_head, query_row, WIDTH, BLOCK_D,
                          total_rows, DOT)
            weight = tl.load(weights + kv_head * total_rows + stacked, mask=inside, other=0.0)
            log_sum = tl.load(lse + kv_head * total_rows + stacked, mask=inside, other=0.0)
            scores = scores_of(q, k, inner, outer, SOFTCAP, PRECISION)
            seen = (tokens < last)[None, :] & (weight != 0)[:, None]  # a row without weight may have no log-sum-exp
            if HAS_WINDOW:
                seen &= tl.load(row_positions + stacked % rows)[:, None] - position[None, :] < window
            by_row = weight * tl.sum(tl.where(seen, tl.exp2(scores - log_sum[:, None]), 0.0), axis=1)
            sums += tl.sum(tl.where((stacked // rows)[:, None] == head[None, :], by_row[:, None], 0.0), axis=0)
    tl.store(result + (kv_head * GROUP + head) * tl.num_programs(0) + span, sums, mask=head < GROUP)


def head_scores(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, starts: Tensor, stops: Tensor, *, visible: Tensor,
    scale: float,
    softcap: float | None, reach: Reach | None,
) -> Tensor:
    """See ``kernels.head_scores.head_scores``; ``starts`` and ``stops`` int64 [spans], on any device."""
    heads, spans = query.shape[0], len(starts)
    result = query.new_empty(heads, spans, dtype=torch.float32)
    if spans == 0:
        return result
    weights = row_weights.expand(heads, -1)
    rows, _ = softmax_rows(query, key, own_key, weights, visible=visible, scale=scale, softcap=softcap, reach=reach)
    query, key = rows.query, rows.key
    tiles = rows.dot.tiles(_TILES, key.shape[2], key.device)
    row_positions, context_positions, window = rows.window()
    sum_spans[(spans, len(key))](
        query, key, rows.weights, rows.lse, row_positions, context_positions, starts.to(query.device),
        stops.to(query.device), result,
        query.shape[1], rows.total, window, rows.inner, rows.outer, query.stride(0), query.stride(1), key.stride(0),
        key.stride(1),
        **rows.constants, HEADS=triton.next_power_of_2(heads // len(key)), BLOCK_M=tiles.rows, BLOCK_N=tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )
    return result
