"""Causal attention of ragged blocks that share a prefix and do not see each other: passages prefilled side by side.

One block over a long prefix is a chunk of ordinary causal prefill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .dispatch import choose
from .products import product
from .scores import SCORES_AT_ONCE, working_dtype

BlockPositions = tuple[Tensor, Tensor]

_LEAST_ROWS, _MOST_ROWS = 32, 128
"""Rows of a head that the CPU scores at once: fewer read the keys too often, more score too much of their own
future."""


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, *, offsets: Sequence[int],
    scale: float,
    softcap: float | None = None, window: int | None = None, positions: BlockPositions | None = None,
    path: str | None = None,
) -> Tensor:
    """The attention output [H, T, d] in ``query``'s dtype.

    ``query`` [H, T, d], ``key`` and ``value`` [KV, T, d] of the blocks' tokens, ``prefix_key`` and ``prefix_value``
    [KV, P, d], of any float dtypes; query head ``h`` reads KV head ``h // (H / KV)``. Block ``b`` is the tokens
    ``offsets[b]`` to ``offsets[b + 1]``, from 0 to T; it may be empty, and P may be 0. A token sees the whole prefix
    and, of its own block, itself and what is before it.

    With ``softcap`` scores are ``softcap * tanh(score / softcap)``. With ``window`` a token sees a key only when its
    position less the key's is below ``window``; ``positions`` are then those of the tokens (int64 [T]) and of the
    prefix (int64 [P]). Softmax and sums are in float32, in a fixed order: the same inputs give the same bits, and a
    block's output does not depend on the other blocks. Peak memory on the CPU beyond the output is a tile of scores and
    one block's keys and values. ``path`` forces a path (see ``dispatch``). Raises ValueError for shapes that do not fit
    and for a path that cannot run.
    """
    _check(query, key, value, prefix_key, prefix_value, offsets, window, positions)
    taken = choose("block_attention", query.device, path)
    if taken == "triton":
        from .gpu.block_attention import block_attention as on_gpu

        return on_gpu(query, key, value, prefix_key, prefix_value, offsets=offsets, scale=scale, softcap=softcap,
                      window=window,
                      positions=positions)
    compute = block_attention_reference if taken == "reference" else _in_tiles
    return compute(query, key, value, prefix_key, prefix_value, offsets=offsets, scale=scale, softcap=softcap,
                   window=window,
                   positions=positions)


def block_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, *, offsets: Sequence[int],
    scale: float,
    softcap: float | None = None, window: int | None = None, positions: BlockPositions | None = None,
) -> Tensor:
    """The definition, with the whole matrix in memory; in float64 for float64 inputs."""
    dtype = working_dtype(query, key, value, prefix_key, prefix_value)
    group, tokens, prefix = query.shape[0] // len(key), query.shape[1], prefix_key.shape[1]
    keys = torch.cat([prefix_key.to(dtype), key.to(dtype)], dim=1).repeat_interleave(group, dim=0)
    values = torch.cat([prefix_value.to(dtype), value.to(dtype)], dim=1).repeat_interleave(group, dim=0)
    scores = scale * query.to(dtype) @ keys.mT
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    block = torch.repeat_interleave(torch.tensor([b - a for a, b in pairwise(offsets)], dtype=torch.int64,
                                                 device=query.device))
    same_block = (block[:, None] == block).tril()
    seen = torch.cat([same_block.new_ones(tokens, prefix), same_block], dim=1)
    if window is not None and positions is not None:
        rows, before = positions
        seen = seen & (rows[:, None] - torch.cat([before, rows]) < window)
    return (scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ values).to(query.dtype)


def _in_tiles(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, *, offsets: Sequence[int],
    scale: float,
    softcap: float | None, window: int | None, positions: BlockPositions | None,
) -> Tensor:
    """A block at a time, and of a block a tile of rows at a time with the keys up to the tile's end.

    No padding, and no scores of other blocks: measured on ragged passages, packing blocks of similar length into
    batches only costs.
    """
    heads, _, width = query.shape
    kv_heads, prefix = prefix_key.shape[:2]
    group = heads // kv_heads
    stacked = query.view(kv_heads, group, -1, width)
    output = query.new_empty(stacked.shape)
    factor = scale if softcap is None else scale / softcap
    future = torch.full((_MOST_ROWS, _MOST_ROWS), -torch.inf).triu_(1)
    keys, values = _Joined(prefix_key, key, offsets), _Joined(prefix_value, value, offsets)
    for start, stop in pairwise(offsets):
        block_keys, block_values = keys.block(start, stop), values.block(start, stop)
        for a, b in _tiles(start, stop, group, prefix):
            seen = prefix + b - start
            hidden = None if window is None or positions is None else _too_far(positions, window, start, a, b)
            for some in _together(kv_heads, group * (b - a) * seen):
                rows = stacked[some, :, a:b].float().mul(factor).reshape(-1, group * (b - a), width)
                scores = product(rows, block_keys[some, :seen].mT)
                if softcap is not None:
                    scores.tanh_().mul_(softcap)
                by_head = scores.view(-1, group, b - a, seen)
                by_head[..., prefix + a - start:] += future[:b - a, :b - a]
                if hidden is not None:
                    by_head.masked_fill_(hidden, -torch.inf)
                attention = torch.softmax(scores, dim=-1, out=scores)
                output[some, :, a:b] = product(attention, block_values[some, :seen]).view(-1, group, b - a,
                                                                                          width).to(output.dtype)
    return output.view(query.shape)


class _Joined:
    """A prefix and one block after it, float32 [KV, P + L, d], in one buffer that every block reuses."""

    def __init__(self, prefix: Tensor, tokens: Tensor, offsets: Sequence[int]) -> None:
        longest = max((stop - start for start, stop in pairwise(offsets)), default=0)
        self._tokens = tokens
        self._prefix = prefix.shape[1]
        self._buffer = torch.empty(len(prefix), self._prefix + longest, prefix.shape[2])
        self._buffer[:, :self._prefix] = prefix

    def block(self, start: int, stop: int) -> Tensor:
        end = self._prefix + stop - start
        self._buffer[:, self._prefix:end] = self._tokens[:, start:stop]
        return self._buffer[:, :end]


def _tiles(start: int, stop: int, group: int, prefix: int) -> Iterator[tuple[int, int]]:
    """The rows of a block in even pieces, each with at most about ``SCORES_AT_ONCE`` scores a KV head."""
    if start == stop:
        return
    most = min(_MOST_ROWS, max(_LEAST_ROWS, SCORES_AT_ONCE // (group * (prefix + stop - start))))
    pieces = -(-(stop - start) // most)
    cuts = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
    yield from pairwise(cuts)


def _together(kv_heads: int, scores: int) -> Iterator[slice]:
    """Small tiles take all KV heads in one go, large ones each alone."""
    at_once = kv_heads if kv_heads * scores <= SCORES_AT_ONCE // 4 else 1
    return (slice(head, head + at_once) for head in range(0, kv_heads, at_once))


def _too_far(positions: BlockPositions, window: int, start: int, a: int, b: int) -> Tensor | None:
    """Which keys (the prefix and the block up to ``b``) lie beyond the window of the rows ``a`` to ``b``; None where
    none does."""
    rows, prefix = positions
    distance = rows[a:b, None] - torch.cat([prefix, rows[start:b]])
    hidden = distance >= window
    return hidden if hidden.any() else None


def _check(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, offsets: Sequence[int],
    window: int | None, positions: BlockPositions | None,
) -> None:
    heads, tokens, width = query.shape
    kv_heads, prefix = prefix_key.shape[:2]
    if not kv_heads or heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} KV heads evenly")
    if key.shape != (kv_heads, tokens, width) or value.shape != key.shape or prefix_key.shape[2] != width \
            or prefix_value.shape != prefix_key.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value, prefix_key, prefix_value))
        raise ValueError(f"query, key, value, prefix_key and prefix_value do not fit together: {shapes}")
    if not offsets or offsets[0] != 0 or offsets[-1] != tokens or any(b < a for a, b in pairwise(offsets)):
        raise ValueError(f"offsets must ascend from 0 to the {tokens} tokens")
    if window is not None and (positions is None or (len(positions[0]), len(positions[1])) != (tokens, prefix)):
        raise ValueError(f"a window needs the positions of the {tokens} tokens and of the {prefix} of the prefix")
