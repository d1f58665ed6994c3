"""The matrix product behind the CPU paths: float32, by whichever of torch's two libraries is faster on this machine."""

from __future__ import annotations

import torch
from torch import Tensor

from .linear import has_onednn

_LARGE = 1 << 23
"""Multiplications from which oneDNN's product pays for its set-up (about a millisecond for each new shape, then
cached)."""


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left`` [heads, m, k] times ``right`` [heads, k, n] (either may be a transposed view), both float32 on the CPU:
    [heads, m, n].

    torch sends this to MKL, which on processors not made by Intel leaves AVX-512 unused: 200 GFLOP/s where oneDNN,
    torch's other library, reaches 350 to 500 (two Zen 5 cores; 180 x 64 x 10,000 and back). One large product therefore
    goes to oneDNN; several heads at once go to ``bmm``. In both the same inputs give the same bits.
    """
    heads, m, k = left.shape
    if heads == 1 and m * k * right.shape[2] >= _LARGE and has_onednn():
        alone: Tensor = torch.ops.mkldnn._linear_pointwise(left[0], right[0].T, None, "none", [], "")
        return alone[None]
    return torch.bmm(left, right)
