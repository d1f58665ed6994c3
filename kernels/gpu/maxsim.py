"""``maxsim`` on the GPU: one program a passage and query, tiles of the passage's tokens against all of the query's; no
padding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codes import quantize_tokens
from .tiles import Dot


@triton.jit
def score_passages(
    queries, factors, tokens, weights, offsets, scores, query_tokens,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_T: tl.constexpr,
    CODES: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):
    """Grid (passages, queries). ``factors`` [query tokens] and ``weights`` [tokens] are the scales of codes, unused
    without."""
    passage = tl.program_id(0)
    which = tl.program_id(1).to(tl.int64)
    first = tl.load(offsets + passage)
    last = tl.load(offsets + passage + 1)
    dims = tl.arange(0, BLOCK_D)
    total = tl.zeros([], tl.float32)
    for start in range(0, query_tokens, BLOCK_Q):
        query = start + tl.arange(0, BLOCK_Q)
        place = which * query_tokens + query
        here = query < query_tokens
        q = tl.load(queries + place[:, None] * WIDTH + dims[None, :], mask=here[:, None] & (dims < WIDTH)[None, :],
                    other=0).to(DOT)
        best = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        broken = tl.zeros([BLOCK_Q], tl.int32)  # the maximum of numbers and NaN is a number
        for at in range(first, last, BLOCK_T):
            token = at + tl.arange(0, BLOCK_T)
            inside = (token < last)[:, None] & (dims < WIDTH)[None, :]
            x = tl.load(tokens + token.to(tl.int64)[:, None] * WIDTH + dims[None, :], mask=inside, other=0).to(DOT)
            if CODES:
                products = tl.dot(q, tl.trans(x), out_dtype=tl.int32).to(tl.float32)
                products *= tl.load(weights + token, mask=token < last, other=0.0)[None, :]
            else:
                products = tl.dot(q, tl.trans(x), input_precision=PRECISION)
            broken = tl.maximum(broken, tl.max((products != products).to(tl.int32), axis=1))
            best = tl.maximum(best, tl.max(tl.where((token < last)[None, :], products, float("-inf")), axis=1))
        if CODES:
            best *= tl.load(factors + place, mask=here, other=0.0)
        best = tl.where(broken != 0, float("nan"), best)
        total += tl.sum(tl.where(here, best, 0.0), axis=0)
    tl.store(scores + which * tl.num_programs(0) + passage, tl.where(last > first, total, 0.0))


def maxsim(batch: Tensor, tokens: Tensor, offsets: Tensor, scales: Tensor | None) -> Tensor:
    """See ``kernels.maxsim.maxsim``; ``batch`` [B, Q, d] with B, Q >= 1, at least one passage.

    A query of the tokens' own dtype (bfloat16, float16) goes through the tensor cores as it is; others make float32
    products.
    """
    count, query_tokens, width = batch.shape
    scores = batch.new_empty((count, len(offsets) - 1), dtype=torch.float32)
    queries, factors, weights = batch.flatten(0, 1).contiguous(), scores, scores
    dot = Dot.of(batch, tokens)
    constants, slow = dot.constants(), dot.dtype == torch.float32
    if scales is not None:
        queries, factors = quantize_tokens(queries)
        weights, constants, slow = scales.contiguous(), {"DOT": tl.int8, "PRECISION": "ieee"}, False
    block_d = max(32, triton.next_power_of_2(width))  # products of int8 need 32
    block_t = 16 if slow or block_d > 256 else 64 if block_d <= 128 else 32
    block_q = min(16 if slow or block_d > 256 else 64, max(16, triton.next_power_of_2(query_tokens)))
    score_passages[(len(offsets) - 1, count)](
        queries, factors, tokens.contiguous(), weights, offsets.contiguous(), scores, query_tokens,
        WIDTH=width, BLOCK_D=block_d, BLOCK_Q=block_q, BLOCK_T=block_t, CODES=scales is not None, **constants,
        num_warps=4, num_stages=2)
    return scores
