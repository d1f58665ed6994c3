"""The matrix product behind the CPU paths: float32, by whichever of torch's two libraries is faster on this machine."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_LARGE = 1 << 23
"""Multiplications from which oneDNN's product pays for its set-up (about a millisecond for each new shape, then cached)."""


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left`` [heads, m, k] times ``right`` [heads, k, n] (either may be a transposed view), both float32 on the CPU: [heads, m, n].

    torch sends this to MKL, which on processors not made by Intel leaves AVX-512 unused: 200 GFLOP/s where oneDNN, torch's other
    library, reaches 350 to 500 (two Zen 5 cores; 180 x 64 x 10,000 and back). One large product therefore goes to oneDNN; several
    heads at once go to ``bmm``. In both the same inputs give the same bits.
    """
    heads, m, k = left.shape
    if heads == 1 and m * k * right.shape[2] >= _LARGE and _onednn():
        alone: Tensor = torch.ops.mkldnn._linear_pointwise(left[0], right[0].T, None, "none", [], "")
        return alone[None]
    return torch.bmm(left, right)


@functools.cache
def _onednn() -> bool:
    """Whether torch has oneDNN's linear layer, the operator that its own compiler emits; only measured with AVX-512."""
    return (torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(torch.backends.mkldnn.enabled)
            and hasattr(torch.ops.mkldnn, "_linear_pointwise"))
