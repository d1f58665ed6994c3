"""Attention mass: how much softmax attention chosen query rows put on each token of a context.

    out[t] = sum over heads h and rows r of row_weights[h, r] * softmax over (context keys, visible own keys) of scale *
    q[h, r] . k [t]

``attention_mass`` gives that sum, ``attend`` the rows' attention output besides; neither holds a rows x keys matrix,
except the references. Shapes, visibility and windows are those of ``scores``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import choose
from .products import product
from .scores import LEAST_ROWS, SCORES_AT_ONCE, Reach, TiledAttention, attention_matrix, check_shapes, joined

__all__ = ["LEAST_ROWS", "SCORES_AT_ONCE", "Reach", "attend", "attend_reference", "attention_mass",
           "attention_mass_reference"]


def attention_mass(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None, path: str | None = None,
) -> Tensor:
    """The mass on each context token, float32 [C], on the inputs' device.

    ``query`` [H, R, d], ``key`` [KV, C, d] and ``own_key`` [KV, S, d] of any float dtypes; ``row_weights`` float32 [H,
    R], signed, zero leaves a row out; ``visible`` bool [R, S]. With ``softcap`` scores are ``softcap * tanh(score /
    softcap)`` (Gemma 2, 2024, arXiv 2408.00118); ``reach`` is a sliding window. C may be 0, and S where C is not; a row
    that sees no key at all is not allowed. ``path`` forces a path (see ``dispatch``).

    Sums in float32 whatever the inputs' dtypes, in a fixed order: the same inputs give the same bits. Peak memory on
    the CPU is a tile of at most ``SCORES_AT_ONCE`` scores (or ``LEAST_ROWS`` rows of them) and one KV head's keys in
    float32. Raises ValueError for shapes that do not fit, and for a path that cannot run.
    """
    check_shapes(query, key, own_key, visible, reach)
    taken = choose("attention_mass", query.device, path)
    if taken == "triton":
        from .gpu.attention_mass import attention_mass as on_gpu

        return on_gpu(query, key, own_key, row_weights, visible=visible, scale=scale, softcap=softcap, reach=reach)
    compute = attention_mass_reference if taken == "reference" else _mass_in_tiles
    return compute(query, key, own_key, row_weights, visible=visible, scale=scale, softcap=softcap, reach=reach)


def attend(
    query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, row_weights: Tensor, *,
    visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None, path: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The attention output [H, R, d] in ``query``'s dtype, and the mass of :func:`attention_mass`, from one computation
    of the scores.

    ``value`` [KV, C, d] and ``own_value`` [KV, S, d]; the rest, the errors and the promises are those of
    :func:`attention_mass`.
    """
    check_shapes(query, key, own_key, visible, reach)
    if value.shape != key.shape or own_value.shape != own_key.shape:
        raise ValueError(f"values {tuple(value.shape)} and {tuple(own_value.shape)} do not fit "
                         f"keys {tuple(key.shape)} and {tuple(own_key.shape)}")
    taken = choose("attention_mass", query.device, path)
    if taken == "triton":
        from .gpu.attention_mass import attend as on_gpu

        return on_gpu(query, key, value, own_key, own_value, row_weights, visible=visible, scale=scale, softcap=softcap,
                      reach=reach)
    compute = attend_reference if taken == "reference" else _attend_in_tiles
    return compute(query, key, value, own_key, own_value, row_weights, visible=visible, scale=scale, softcap=softcap,
                   reach=reach)


def attention_mass_reference(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None,
) -> Tensor:
    """The definition, with the whole matrix in memory; float64 for float64 inputs."""
    attention = attention_matrix(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    return torch.einsum("hr,hrt->t", row_weights.to(attention.dtype), attention[:, :, :key.shape[1]])


def attend_reference(
    query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, row_weights: Tensor, *,
    visible: Tensor, scale: float,
    softcap: float | None = None, reach: Reach | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`attend`, with the whole matrix in memory; float64 for float64 inputs."""
    attention = attention_matrix(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    values = torch.cat([value.to(attention.dtype), own_value.to(attention.dtype)], dim=1)
    output = attention @ values.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    mass = torch.einsum("hr,hrt->t", row_weights.to(attention.dtype), attention[:, :, :key.shape[1]])
    return output.to(query.dtype), mass


def _mass_in_tiles(
    query: Tensor, key: Tensor, own_key: Tensor, row_weights: Tensor, *, visible: Tensor, scale: float,
    softcap: float | None, reach: Reach | None,
) -> Tensor:
    attention = TiledAttention(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    weights = row_weights.float().reshape(len(key), -1)
    mass = torch.zeros(key.shape[1], device=key.device)
    for kv_head, head_weights in enumerate(weights):
        for rows, tile in attention.tiles(kv_head, head_weights.nonzero().flatten()):
            mass.addmv_(tile[:, :len(mass)].T, head_weights[rows])
    return mass


def _attend_in_tiles(
    query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, row_weights: Tensor, *,
    visible: Tensor, scale: float,
    softcap: float | None, reach: Reach | None,
) -> tuple[Tensor, Tensor]:
    attention = TiledAttention(query, key, own_key, visible=visible, scale=scale, softcap=softcap, reach=reach)
    weights = row_weights.float().reshape(len(key), -1)
    mass = torch.zeros(key.shape[1], device=key.device)
    output = query.new_empty(len(key), weights.shape[1], query.shape[2])
    everything = torch.arange(weights.shape[1])
    for kv_head, head_weights in enumerate(weights):
        values = joined(value[kv_head], own_value[kv_head])
        for rows, tile in attention.tiles(kv_head, everything):
            output[kv_head, rows] = product(tile[None], values[None])[0].to(output.dtype)
            if head_weights[rows].any():
                mass.addmv_(tile[:, :len(mass)].T, head_weights[rows])
    return output.view(query.shape), mass
