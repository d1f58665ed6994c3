"""Cached keys moved to other positions: rotary position embedding (RoPE; Su et al. 2021, arXiv 2104.09864) is additive
in the position, so a key that was rotated to one position is moved to another by rotating it by the difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import choose


def rope_shift(key: Tensor, index: Tensor, shift: Tensor, inverse_frequencies: Tensor, *,
               path: str | None = None) -> Tensor:
    """The tokens ``index`` of ``key``, each moved by its ``shift``: [KV, N, d] in ``key``'s dtype.

    ``key`` [KV, T, d], rotated to some positions; ``index`` int64 [N], tokens to gather, in any order, repeats allowed;
    ``shift`` int64 [N], positions to add; ``inverse_frequencies`` float32 [r / 2], radians a position, for the first
    ``r <= d`` dimensions, which are rotated in the layout of transformers' ``rotate_half`` (dimension ``i`` with ``i +
    r / 2``); the others are copied.

    Angles are exact to float64 at any position; the rotation is in float32 (float64 in the reference for float64 keys).
    ``path`` forces a path (see ``dispatch``). Raises ValueError for shapes that do not fit and for a path that cannot
    run.
    """
    if index.shape != shift.shape or index.ndim != 1:
        raise ValueError(f"index {tuple(index.shape)} and shift {tuple(shift.shape)} must be two vectors of the same "
                         f"length")
    if 2 * len(inverse_frequencies) > key.shape[2]:
        raise ValueError(f"{len(inverse_frequencies)} frequencies are too many for keys of {key.shape[2]} dimensions")
    taken = choose("rope_shift", key.device, path)
    if taken == "triton":
        from .gpu.rope_shift import rope_shift as on_gpu

        return on_gpu(key, index, shift, inverse_frequencies)
    compute = rope_shift_reference if taken == "reference" else _in_place
    return compute(key, index, shift, inverse_frequencies)


def rope_shift_reference(key: Tensor, index: Tensor, shift: Tensor, inverse_frequencies: Tensor) -> Tensor:
    """The definition, in float64 throughout."""
    angle = shift.double()[:, None] * inverse_frequencies.double()
    cos, sin = angle.cos(), angle.sin()
    half = len(inverse_frequencies)
    gathered = key[:, index].double()
    low, high, rest = gathered[..., :half], gathered[..., half:2 * half], gathered[..., 2 * half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1).to(key.dtype)


def _in_place(key: Tensor, index: Tensor, shift: Tensor, inverse_frequencies: Tensor) -> Tensor:
    """Gathers once and rotates there. The tokens of a passage share their shift: sines are computed once for each
    different one."""
    shifts, which = torch.unique(shift, return_inverse=True)
    angle = shifts.double()[:, None] * inverse_frequencies.double()
    cos, sin = angle.cos().float()[which], angle.sin().float()[which]
    half = len(inverse_frequencies)
    moved = key.index_select(1, index)
    low, high = moved[..., :half], moved[..., half:2 * half]
    rotated_low = (low * cos).addcmul_(high, sin, value=-1)
    rotated_high = (high * cos).addcmul_(low, sin)
    low.copy_(rotated_low)
    high.copy_(rotated_high)
    return moved
