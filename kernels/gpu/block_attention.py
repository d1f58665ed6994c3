"""``block_attention`` on the GPU: flash attention (Dao 2023, arXiv 2307.08691) over the shared prefix's tiles, then the
block's own.

A program takes a few tokens of one block with all the query heads of one KV head, so that a key tile serves the whole
group and the causal edge is short. Which tokens is a table made from the offsets: ragged blocks cost neither padding
nor a mask in memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from .softmax import accumulate, load_tokens, scores_of
from .tiles import Dot, Tiles, block_width, dense_last

_TILES = {128: Tiles(128, 64, 8, 3), 256: Tiles(128, 64, 8, 3), 512: Tiles(128, 32, 8, 2)}


@triton.jit
def visit(
    q, key, value, tokens, end, key_token, value_token, row_token, inner, outer, top, total, output,
    row_position, positions, window, CAUSAL: tl.constexpr, WHOLE: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, HAS_WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Attend to one tile of keys. ``WHOLE``: all its tokens are seen by all rows; ``CAUSAL``: a row sees them up to its
    own."""
    k = load_tokens(key, tokens, end, key_token, WIDTH, BLOCK_D, DOT)
    v = load_tokens(value, tokens, end, value_token, WIDTH, BLOCK_D, DOT)
    scores = scores_of(q, k, inner, outer, SOFTCAP, PRECISION)
    if not WHOLE:
        seen = (tokens < end)[None, :]
        if CAUSAL:
            seen &= tokens[None, :] <= row_token[:, None]
        scores = tl.where(seen, scores, float("-inf"))
    if HAS_WINDOW:
        position = tl.load(positions + tokens, mask=tokens < end, other=0)
        scores = tl.where(row_position[:, None] - position[None, :] < window, scores, float("-inf"))
    return accumulate(scores, v, top, total, output, True, DOT, PRECISION)


@triton.jit
def attend_blocks(
    query, key, value, prefix_key, prefix_value, output, tiles, row_positions, prefix_positions,
    prefix, window, inner, outer,
    query_head, query_token, key_head, key_token, value_head, value_token,
    prefix_key_head, prefix_key_token, prefix_value_head, prefix_value_token, output_head, output_token,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Grid (tiles, KV heads); ``tiles`` int32 [tiles, 3]: the block's start and stop, the tile's first token.

    Row ``i`` of a tile is head ``i % GROUP`` of its token ``i // GROUP``.
    """
    kv_head = tl.program_id(1).to(tl.int64)
    entry = tiles + tl.program_id(0).to(tl.int64) * 3
    block_start = tl.load(entry)
    block_stop = tl.load(entry + 1)
    first = tl.load(entry + 2)
    last = tl.minimum(first + TOKENS, block_stop)
    row = tl.arange(0, BLOCK_M)
    token = first + row // GROUP
    inside = token < last
    lane = tl.arange(0, BLOCK_D)
    here = inside[:, None] & (lane < WIDTH)[None, :]
    head = kv_head * GROUP + row % GROUP
    place = token.to(tl.int64)
    q = tl.load(query + (head * query_head + place * query_token)[:, None] + lane[None,
                                                                                  :], mask=here, other=0.0).to(DOT)
    row_position = token
    if HAS_WINDOW:
        row_position = tl.load(row_positions + token, mask=inside, other=0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    prefix_key += kv_head * prefix_key_head
    prefix_value += kv_head * prefix_value_head
    key += kv_head * key_head
    value += kv_head * value_head
    column = tl.arange(0, BLOCK_N)
    whole_prefix = prefix // BLOCK_N * BLOCK_N
    for start in range(0, whole_prefix, BLOCK_N):
        top, total, mixed = visit(q, prefix_key, prefix_value, start + column, prefix, prefix_key_token,
                                  prefix_value_token, token,
                                  inner, outer, top, total, mixed, row_position, prefix_positions, window,
                                  False, True, WIDTH, BLOCK_D, HAS_WINDOW, SOFTCAP, DOT, PRECISION)
    for start in tl.range(whole_prefix, prefix, BLOCK_N, num_stages=1):
        top, total, mixed = visit(q, prefix_key, prefix_value, start + column, prefix, prefix_key_token,
                                  prefix_value_token, token,
                                  inner, outer, top, total, mixed, row_position, prefix_positions, window,
                                  False, False, WIDTH, BLOCK_D, HAS_WINDOW, SOFTCAP, DOT, PRECISION)
    edge = block_start + (first - block_start) // BLOCK_N * BLOCK_N  # what lies before it, every row of the tile sees
    for start in range(block_start, edge, BLOCK_N):
        top, total, mixed = visit(q, key, value, start + column, last, key_token, value_token, token, inner, outer,
                                  top, total, mixed, row_position, row_positions, window,
                                  False, True, WIDTH, BLOCK_D, HAS_WINDOW, SOFTCAP, DOT, PRECISION)
    for start in tl.range(edge, last, BLOCK_N, num_stages=1):
        top, total, mixed = visit(q, key, value, start + column, last, key_token, value_token, token, inner, outer,
                                  top, total, mixed, row_position, row_positions, window,
                                  True, False, WIDTH, BLOCK_D, HAS_WINDOW, SOFTCAP, DOT, PRECISION)
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(output + (head * output_head + place * output_token)[:, None] + lane[None, :],
             mixed.to(output.dtype.element_ty), mask=here)


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, *, offsets: Sequence[int],
    scale: float,
    softcap: float | None, window: int | None, positions: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """See ``kernels.block_attention.block_attention``."""
    query, key, value, prefix_key, prefix_value = map(dense_last, (query, key, value, prefix_key, prefix_value))
    kv_heads, prefix, width = prefix_key.shape
    group = query.shape[0] // kv_heads
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    dot = Dot.of(query, key, value, prefix_key, prefix_value)
    tiles = dot.tiles(_TILES, width, query.device)
    stacked = max(tiles.rows, triton.next_power_of_2(group))
    table = _table(tuple(offsets), stacked // group, query.device)
    if len(table) == 0:
        return output
    rows, before = (part.contiguous()
                    for part in positions) if window is not None and positions is not None else (table, table)
    log2e = math.log2(math.e)
    inner, outer = (scale * log2e, 0.0) if softcap is None else (scale / softcap, softcap * log2e)
    attend_blocks[(len(table), kv_heads)](
        query, key, value, prefix_key, prefix_value, output, table, rows, before, prefix, window or 0, inner, outer,
        *(tensor.stride(axis) for tensor in (query, key, value, prefix_key, prefix_value, output) for axis in (0, 1)),
        GROUP=group, TOKENS=stacked // group, WIDTH=width, BLOCK_D=block_width(width), BLOCK_M=stacked,
        BLOCK_N=tiles.keys,
        HAS_WINDOW=window is not None, SOFTCAP=softcap is not None, **dot.constants(), num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return output


@functools.lru_cache(maxsize=16)
def _table(offsets: tuple[int, ...], tokens: int, device: torch.device) -> Tensor:
    """The tiles of :func:`attend_blocks`, ``tokens`` tokens each; kept, because every layer of a prefill asks for the
    same one."""
    entries = [(start, stop, first) for start, stop in pairwise(offsets) for first in range(start, stop, tokens)]
    return torch.tensor(entries, dtype=torch.int32).reshape(-1, 3).to(device)
