"""Attention mass: how much softmax attention chosen query rows put on each of the first keys.

    out[t] = sum over heads h and rows r of row_weights[h, r] * softmax over visible keys (scale * q[h, r] . k[h // group, :])[t]

Both functions compute it; ``attention_mass`` never holds the rows x keys matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SCORES_AT_ONCE = 1 << 20
"""Elements (float32) of the largest intermediate: 4 MiB, so that a tile of scores stays in a CPU core's cache."""


def attention_mass_reference(
    query: Tensor, key: Tensor, row_weights: Tensor, *, columns: int, visible: Tensor, scale: float,
) -> Tensor:
    """The definition, in the precision of its inputs and with the whole matrix in memory; see :func:`attention_mass`."""
    group = query.shape[0] // key.shape[0]
    scores = scale * query @ key.repeat_interleave(group, dim=0).mT
    scores[:, :, columns:].masked_fill_(~visible, -torch.inf)
    return torch.einsum("hr,hrt->t", row_weights, scores.softmax(dim=-1)[:, :, :columns])


def attention_mass(
    query: Tensor, key: Tensor, row_weights: Tensor, *, columns: int, visible: Tensor, scale: float, tile: int | None = None,
) -> Tensor:
    """The mass on the first ``columns`` keys, in two passes over key tiles: the rows' log-sum-exp, then the weighted columns.

    ``query`` [heads, rows, d]; ``key`` [KV heads, keys, d], where query head ``h`` reads KV head ``h // (heads / KV heads)``
    (grouped-query attention; keys are not expanded); ``row_weights`` float32 [heads, rows], signed, zero leaves a row out.
    Every row sees the first ``columns`` keys (the context); ``visible`` bool [rows, keys - columns] says which of the others
    (the rows' own keys) it sees, at least one where ``columns`` is 0. ``tile`` keys are scored at once; by default as many as
    ``SCORES_AT_ONCE`` allows.

    Returns float32 [columns] on the inputs' device. Sums in float32 whatever the inputs' dtype, in a fixed order: the same
    inputs give the same bits. Peak memory is heads x rows x ``tile``, never heads x rows x keys.
    """
    kv_heads, keys, width = key.shape
    heads, rows, _ = query.shape
    group = heads // kv_heads
    stacked = (query.float() * scale).reshape(kv_heads, group * rows, width)
    weights = row_weights.float().reshape(kv_heads, 1, group * rows)
    hidden = ~visible.repeat(group, 1)
    tile = tile or max(1, SCORES_AT_ONCE // (heads * rows))

    def scores(start: int, stop: int) -> Tensor:
        return stacked @ key[:, start:stop].float().mT

    log_sum = stacked.new_full((kv_heads, group * rows, 1), -torch.inf)
    for start, stop in _tiles(columns, keys, tile):
        own = scores(start, stop).masked_fill_(hidden[:, start - columns:stop - columns], -torch.inf)
        log_sum = torch.logaddexp(log_sum, own.logsumexp(dim=-1, keepdim=True))
    for start, stop in _tiles(0, columns, tile):
        log_sum = torch.logaddexp(log_sum, scores(start, stop).logsumexp(dim=-1, keepdim=True))

    mass = stacked.new_empty(columns)
    for start, stop in _tiles(0, columns, tile):
        attention = scores(start, stop).sub_(log_sum).exp_()
        mass[start:stop] = (weights @ attention).sum(dim=(0, 1))
    return mass


def _tiles(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + size, stop)) for a in range(start, stop, size))
