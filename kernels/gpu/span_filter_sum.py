"""``span_filter_sum`` on the GPU: one program a passage, which reads its values three times (they stay in the
cache)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 256
"""Tokens that a program reads at once."""


@triton.jit
def filter_and_sum(values, starts, stops, result, deviations, TOKENS: tl.constexpr):
    """Grid (spans): mean, unbiased deviation and filtered sum, all in float64."""
    span = tl.program_id(0)
    first = tl.load(starts + span)
    last = tl.load(stops + span)
    lane = tl.arange(0, TOKENS)
    running = tl.zeros([TOKENS], tl.float64)
    for start in range(first, last, TOKENS):
        running += tl.load(values + start + lane, mask=start + lane < last, other=0.0).to(tl.float64)
    mean = tl.sum(running, axis=0) / tl.maximum(last - first, 1).to(tl.float64)
    running = tl.zeros([TOKENS], tl.float64)
    for start in range(first, last, TOKENS):
        inside = start + lane < last
        centred = tl.load(values + start + lane, mask=inside, other=0.0).to(tl.float64) - mean
        running += tl.where(inside, centred * centred, 0.0)
    variance = tl.sum(running, axis=0) / tl.maximum(last - first - 1, 1).to(tl.float64)
    # Of a span of one token both sides of the comparison below are 0: it is kept without an exception.
    floor = -deviations * tl.sqrt(variance)
    running = tl.zeros([TOKENS], tl.float64)
    for start in range(first, last, TOKENS):
        value = tl.load(values + start + lane, mask=start + lane < last, other=0.0).to(tl.float64)
        running += tl.where(value - mean >= floor, value, 0.0)
    tl.store(result + span, tl.sum(running, axis=0).to(tl.float32))


def span_filter_sum(values: Tensor, starts: Tensor, stops: Tensor, *, deviations: float) -> Tensor:
    """See ``kernels.span_filter_sum.span_filter_sum``; ``starts`` and ``stops`` int64 [spans], on any device."""
    result = torch.empty(len(starts), dtype=torch.float32, device=values.device)
    if len(starts):
        filter_and_sum[(len(starts),)](
            values.contiguous(), starts.to(values.device), stops.to(values.device), result, deviations, TOKENS=TOKENS,
            num_warps=4,
        )
    return result
