"""How kernels are cut: in what precision products are taken, and which tiles suit a head's width."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows and keys of a tile, warps of a program, and stages of the software pipeline that loads ahead."""

    rows: int
    keys: int
    warps: int
    stages: int


ByWidth = Mapping[int, Tiles]
"""Tiles for tensor cores by the bytes of one row of operands: 128, 256 or 512 (64, 128 or 256 dimensions of
bfloat16)."""

_NARROW, _WIDE = Tiles(32, 32, 8, 1), Tiles(16, 16, 4, 1)
"""Tiles for float32 products without tensor cores, whose operands are held in registers: up to 64 dimensions, and
above."""

_ROOMY = 160 * 1024
"""Bytes of shared memory from which loading ahead fits (A100: 163 KiB, H100: 227); other GPUs since Ampere have 99."""


@dataclass(frozen=True, slots=True)
class Dot:
    """In what products are taken; sums are always in float32."""

    dtype: torch.dtype
    precision: str

    @classmethod
    def of(cls, *tensors: Tensor) -> Dot:
        """float16 and bfloat16 as they are; both together as TF32, which holds the values of either exactly; all else
        in float32."""
        kinds = {tensor.dtype for tensor in tensors}
        if not kinds <= {torch.float16, torch.bfloat16}:
            return cls(torch.float32, "ieee")
        return cls(kinds.pop(), "ieee") if len(kinds) == 1 else cls(torch.float32, "tf32")

    def tiles(self, by_width: ByWidth, width: int, device: torch.device) -> Tiles:
        """The tiles for heads of ``width`` dimensions."""
        row = block_width(width) * self.dtype.itemsize
        if (self.dtype == torch.float32 and self.precision == "ieee") or row > max(by_width):
            return _NARROW if width <= 64 else _WIDE
        tiles = by_width[min(size for size in by_width if size >= row)]
        return tiles if _shared_memory(device) >= _ROOMY else Tiles(tiles.rows, tiles.keys, tiles.warps, 1)

    def constants(self) -> dict[str, Any]:
        """The kernels' arguments DOT and PRECISION."""
        names = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
        return {"DOT": names[self.dtype], "PRECISION": self.precision}


def block_width(width: int) -> int:
    """A head's dimensions as a tile holds them: a power of two, at least the 16 that a product needs."""
    return max(16, int(triton.next_power_of_2(width)))


def dense_last(tensor: Tensor) -> Tensor:
    """``tensor`` with its last dimension dense, which is all that the kernels ask of a layout."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may use; under the interpreter there is no limit."""
    if device.type != "cuda":
        return _ROOMY
    return int(triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"])
