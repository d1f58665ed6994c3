"""``rope_shift`` on the GPU: the gather and the rotation in one pass over the tokens."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .tiles import dense_last

TOKENS = 32
"""Tokens of one program."""


@triton.jit
def gather_and_rotate(
    key, index, shift, frequencies, moved, tokens, key_head, key_token, moved_head,
    WIDTH: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr, TOKENS: tl.constexpr,
):
    """Grid (token tiles, KV heads); ``HALF`` is half of the rotated dimensions, ``BLOCK_REST`` covers those that are
    copied (0: none)."""
    kv_head = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = token < tokens
    source = key + kv_head * key_head + (tl.load(index + token, mask=inside, other=0).to(tl.int64) * key_token)[:, None]
    target = moved + kv_head * moved_head + (token.to(tl.int64) * WIDTH)[:, None]
    if HALF > 0:
        lane = tl.arange(0, BLOCK_HALF)
        here = inside[:, None] & (lane < HALF)[None, :]
        # Whole turns are dropped in float64: in float32 the angle at position 100,000 would be off by a hundredth of a
        # radian.
        turns = tl.load(shift + token, mask=inside, other=0).to(tl.float64)[:, None] \
            * (tl.load(frequencies + lane, mask=lane < HALF, other=0.0).to(tl.float64) * 0.15915494309189535)[None, :]
        angle = ((turns - tl.floor(turns + 0.5)) * 6.283185307179586).to(tl.float32)
        cos = tl.cos(angle)
        sin = tl.sin(angle)
        low = tl.load(source + lane[None, :], mask=here, other=0.0).to(tl.float32)
        high = tl.load(source + lane[None, :] + HALF, mask=here, other=0.0).to(tl.float32)
        tl.store(target + lane[None, :], (low * cos - high * sin).to(moved.dtype.element_ty), mask=here)
        tl.store(target + lane[None, :] + HALF, (high * cos + low * sin).to(moved.dtype.element_ty), mask=here)
    if BLOCK_REST > 0:
        rest = 2 * HALF + tl.arange(0, BLOCK_REST)
        there = inside[:, None] & (rest < WIDTH)[None, :]
        tl.store(target + rest[None, :], tl.load(source + rest[None, :], mask=there, other=0.0), mask=there)


def rope_shift(key: Tensor, index: Tensor, shift: Tensor, inverse_frequencies: Tensor) -> Tensor:
    """See ``kernels.rope_shift.rope_shift``."""
    key = dense_last(key)
    kv_heads, _, width = key.shape
    tokens, half = len(index), len(inverse_frequencies)
    moved = key.new_empty(kv_heads, tokens, width)
    if moved.numel():
        rest = width - 2 * half
        gather_and_rotate[(triton.cdiv(tokens, TOKENS), kv_heads)](
            key, index.contiguous(), shift.contiguous(), inverse_frequencies.float().contiguous(), moved, tokens,
            key.stride(0), key.stride(1), moved.stride(0), WIDTH=width, HALF=half,
            BLOCK_HALF=triton.next_power_of_2(max(1, half)),
            BLOCK_REST=triton.next_power_of_2(rest) if rest else 0, TOKENS=TOKENS, num_warps=4,
        )
    return moved
