"""``attention_mass`` and ``attend`` on the GPU: the rows' log-sum-exp, then each tile of columns sums its own
attention.

A program of the second phase owns a tile of columns of one KV head, reads its keys once and visits all the rows that
share them: no atomics, and no more is written than the [KV, C] sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scores import Reach
from .softmax import StackedRows, load_rows, load_tokens, scores_of, softmax_rows
from .tiles import Tiles

_TILES = {128: Tiles(64, 128, 4, 3), 256: Tiles(64, 128, 4, 3), 512: Tiles(32, 128, 4, 2)}


@triton.jit
def sum_columns(
    query, key, weights, lse, row_positions, context_positions, mass,
    rows, total_rows, columns, window, inner, outer, query_head, query_row, key_head, key_token,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Grid (column tiles, KV heads). Scores are taken as keys x rows, so that a column's sum stays within a warp."""
    kv_head = tl.program_id(1).to(tl.int64)
    tokens = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = load_tokens(key + kv_head * key_head, tokens, columns, key_token, WIDTH, BLOCK_D, DOT)
    if HAS_WINDOW:
        position = tl.load(context_positions + tokens, mask=tokens < columns, other=0)
    sums = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, total_rows, BLOCK_M):
        stacked = start + tl.arange(0, BLOCK_M)
        inside = stacked < total_rows
        q = load_rows(query + kv_head * GROUP * query_head, stacked, rows, query_head, query_row, WIDTH, BLOCK_D,
                      total_rows, DOT)
        weight = tl.load(weights + kv_head * total_rows + stacked, mask=inside, other=0.0)
        log_sum = tl.load(lse + kv_head * total_rows + stacked, mask=inside, other=0.0)
        scores = scores_of(k, q, inner, outer, SOFTCAP, PRECISION)
        seen = (weight != 0)[None, :]  # a row without weight may have no log-sum-exp
        if HAS_WINDOW:
            seen &= tl.load(row_positions + stacked % rows)[None, :] - position[:, None] < window
        sums += tl.sum(tl.where(seen, weight[None, :] * tl.exp2(scores - log_sum[None, :]), 0.0), axis=1)
    tl.store(mass + kv_head * columns + tokens, sums, mask=tokens < columns)


def attention_mass(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None,
    reach: Reach | None,
) -> Tensor:
    """See ``kernels.attention_mass.attention_mass``."""
    rows, _ = softmax_rows(query, key, own_key, row_weights, visible=visible, scale=scale, softcap=softcap, reach=reach)
    return _mass(rows)


def attend(
    query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, row_weights: Tensor, *,
    visible: Tensor, scale: float,
    softcap: float | None, reach: Reach | None,
) -> tuple[Tensor, Tensor]:
    """See ``kernels.attention_mass.attend``."""
    rows, output = softmax_rows(query, key, own_key, row_weights, visible=visible, scale=scale, softcap=softcap,
                                reach=reach,
                                values=(value, own_value))
    return output, _mass(rows)


def _mass(rows: StackedRows) -> Tensor:
    query, key = rows.query, rows.key
    kv_heads, columns, width = key.shape
    mass = query.new_empty(kv_heads, columns, dtype=torch.float32)
    if columns == 0:
        return mass.sum(dim=0)
    tiles = rows.dot.tiles(_TILES, width, key.device)
    row_positions, context_positions, window = rows.window()
    sum_columns[(triton.cdiv(columns, tiles.keys), kv_heads)](
        query, key, rows.weights, rows.lse, row_positions, context_positions, mass,
        query.shape[1], rows.total, columns, window, rows.inner, rows.outer,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1),
        **rows.constants, BLOCK_M=tiles.rows, BLOCK_N=tiles.keys, num_warps=tiles.warps, num_stages=tiles.stages,
    )
    return mass.sum(dim=0)
