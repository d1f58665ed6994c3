"""Each head's attention on each span: what tells apart the heads that find passages (QRHead, Zhang et al. 2025, arXiv
2506.09944)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import choose
from .scores import Reach, TiledAttention, attention_matrix, check_shapes
from .spans import bounds

Spans = Sequence[tuple[int, int]]


def head_scores(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, spans: Spans, *, visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None, path: str | None = None,
) -> Tensor:
    """The weighted attention mass of each query head on each half-open span of context tokens, float32 [H, spans]; no
    filter.

    ``row_weights`` float32 [R], the same for all heads, signed; ``spans`` in any order, may overlap, an empty one
    scores 0. The rest is as in ``attention_mass``. Raises ValueError for a span outside the context, shapes that do not
    fit, a path that cannot run.
    """
    check_shapes(query, key, own_key, visible, reach)
    starts, stops = bounds(spans, key.shape[1])
    taken = choose("head_scores", query.device, path)
    if taken == "triton":
        from .gpu.head_scores import head_scores as on_gpu

        return on_gpu(query, key, own_key, row_weights, starts, stops, visible=visible, scale=scale, softcap=softcap,
                      reach=reach)
    if taken == "reference":
        return head_scores_reference(query, key, own_key, row_weights, spans, visible=visible, scale=scale,
                                     softcap=softcap, reach=reach)
    mass = _mass_by_head(query, key, own_key, row_weights, visible=visible, scale=scale, softcap=softcap, reach=reach)
    # Differences of running sums: in float64, so that what cancels leaves nothing behind at float32's precision.
    running = torch.nn.functional.pad(mass.double().cumsum(dim=1), (1, 0))
    return (running[:, stops] - running[:, starts]).float()


def head_scores_reference(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, spans: Spans, *, visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None,
) -> Tensor:
    """The definition, with the whole matrix in memory; float64 for float64 inputs."""
    attention = attention_matrix(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    mass = torch.einsum("r,hrt->ht", row_weights.to(attention.dtype), attention)
    columns = [mass[:, start:stop].sum(dim=1) for start, stop in spans]
    return torch.stack(columns, dim=1) if columns else mass.new_empty(len(mass), 0)


def _mass_by_head(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None, reach: Reach | None,
) -> Tensor:
    """The mass of each head on each context token, float32 [H, C]."""
    heads, rows, _ = query.shape
    attention = TiledAttention(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    weights = row_weights.float()
    weighty = weights.nonzero().flatten()
    mass = torch.zeros(heads, key.shape[1], device=key.device)
    group = heads // len(key)
    for kv_head in range(len(key)):
        stacked = (torch.arange(group)[:, None] * rows + weighty).flatten()
        for piece, tile in attention.tiles(kv_head, stacked):
            own_head = piece // rows == torch.arange(group)[:, None]
            mass[kv_head * group:(kv_head + 1) * group] += (own_head * weights[piece % rows]) @ tile[:, :key.shape[1]]
    return mass
