"""Attention of a few rows on a long context and on their own keys: who sees what, the plain matrix, and the CPU's tiles
of it.

``attention_mass`` and ``head_scores`` share these conventions. Shapes: ``query`` [H, R, d]; ``key`` [KV, C, d], the
context, which every row sees; ``own_key`` [KV, S, d], of which row ``r`` sees ``visible[r]`` (bool [R, S]). Query head
``h`` reads KV head ``h // (H / KV)``, so the rows of a group of heads can be stacked and share one product with their
keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .products import product

SCORES_AT_ONCE = 1 << 20
"""Elements (float32) of the CPU's largest tile of scores: 4 MiB, so that it stays in the processor's cache."""

LEAST_ROWS = 32
"""Rows that are scored at once even where ``SCORES_AT_ONCE`` allows fewer: fewer would read the keys too often."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A sliding window: a row sees a key only when ``row position - key position < window``.

    ``rows`` int64 [R], ``context`` int64 [C] and ``own`` int64 [S] are positions, on the device of the keys.
    """

    window: int
    rows: Tensor
    context: Tensor
    own: Tensor

    def covers_all(self) -> bool:
        """Whether every row reaches every key, so that the window hides nothing."""
        keys = [int(positions.min()) for positions in (self.context, self.own) if len(positions)]
        return not len(self.rows) or not keys or int(self.rows.max()) - min(keys) < self.window


def check_shapes(query: Tensor, key: Tensor, own_key: Tensor, visible: Tensor, reach: Reach | None) -> None:
    """Raise ValueError where the shapes do not fit each other."""
    heads, rows, width = query.shape
    kv_heads, columns, own = key.shape[0], key.shape[1], own_key.shape[1]
    if not rows:
        raise ValueError("there are no query rows")
    if not kv_heads or heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} KV heads evenly")
    if own_key.shape[0] != kv_heads or key.shape[2] != width or own_key.shape[2] != width:
        raise ValueError(f"query {tuple(query.shape)}, key {tuple(key.shape)} and own_key {tuple(own_key.shape)} do "
                         f"not fit together")
    if visible.shape != (rows, own):
        raise ValueError(f"visible is {tuple(visible.shape)} where {rows} rows have {own} own keys")
    if reach is not None and (len(reach.rows), len(reach.context), len(reach.own)) != (rows, columns, own):
        raise ValueError(f"reach has positions of {len(reach.rows)} rows, {len(reach.context)} context and "
                         f"{len(reach.own)} own keys; "
                         f"the tensors have {rows}, {columns} and {own}")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where a tensor is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def attention_matrix(
    query: Tensor, key: Tensor, own_key: Tensor, *, visible: Tensor, scale: float, softcap: float | None,
    reach: Reach | None,
) -> Tensor:
    """The definition: the softmax of every row over the context's and its own keys, [H, R, C + S], float64 for float64
    inputs."""
    dtype = working_dtype(query, key, own_key)
    keys = torch.cat([key.to(dtype), own_key.to(dtype)], dim=1).repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    scores = scale * query.to(dtype) @ keys.mT
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = torch.cat([visible.new_ones(query.shape[1], key.shape[1]), visible], dim=1)
    if reach is not None:
        seen = seen & (reach.rows[:, None] - torch.cat([reach.context, reach.own])[None] < reach.window)
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


class TiledAttention:
    """The same softmax on the CPU, a tile of rows at a time: each score is computed once, and no more than a tile is in
    memory.

    The rows of the query heads that share a KV head are stacked: row ``i`` of KV head ``n`` is row ``i % R`` of query
    head ``n * G + i // R``, where ``G = H / KV``.
    """

    def __init__(
        self, query: Tensor, key: Tensor, own_key: Tensor, *, visible: Tensor, scale: float, softcap: float | None,
        reach: Reach | None,
    ) -> None:
        heads, self._rows, width = query.shape
        self._key, self._own_key = key, own_key
        self._softcap = softcap
        self._columns = key.shape[1]
        self._keys = self._columns + own_key.shape[1]
        self._reach = None if reach is None or reach.covers_all() else reach
        self._hidden = ~visible
        scale = scale if softcap is None else scale / softcap
        self._query = (query.float() * scale).reshape(key.shape[0], heads // key.shape[0] * self._rows, width)

    def tiles(self, kv_head: int, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of ``rows`` (int64, numbers of stacked rows) with their attention, float32 [rows, C + S]."""
        if not len(rows):
            return
        key = joined(self._key[kv_head], self._own_key[kv_head])
        most = max(LEAST_ROWS, SCORES_AT_ONCE // self._keys)
        for piece in rows.tensor_split(-(-len(rows) // most)):
            yield piece, self._attention(self._query[kv_head][piece], key, piece % self._rows)

    def _attention(self, query: Tensor, key: Tensor, row: Tensor) -> Tensor:
        scores = product(query[None], key.mT[None])[0]
        if self._softcap is not None:
            scores.tanh_().mul_(self._softcap)
        scores[:, self._columns:].masked_fill_(self._hidden[row], -torch.inf)
        if self._reach is not None:
            positions = torch.cat([self._reach.context, self._reach.own])
            scores.masked_fill_(self._reach.rows[row, None] - positions >= self._reach.window, -torch.inf)
        return torch.softmax(scores, dim=-1, out=scores)


def joined(context: Tensor, own: Tensor) -> Tensor:
    """``context`` [C, d] and ``own`` [S, d] as one float32 [C + S, d], converted on the way."""
    both = torch.empty(len(context) + len(own), context.shape[1], dtype=torch.float32, device=context.device)
    both[:len(context)] = context
    both[len(context):] = own
    return both
