"""Which path a kernel call takes: the plain reference, the fast CPU one, or Triton on an NVIDIA GPU.

In this order: the call's own ``path`` argument, the environment variable ``REGARD_KERNELS`` (``triton`` for every
kernel, or ``attention_mass=reference,maxsim=cpu``), the device. ``taken`` tells a caller which paths its calls took.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast

import torch

Path = Literal["reference", "cpu", "triton"]

PATHS: tuple[Path, ...] = ("reference", "cpu", "triton")
KERNELS = ("attention_mass", "span_filter_sum", "head_scores", "block_attention", "rope_shift", "maxsim", "topk_search")
VARIABLE = "REGARD_KERNELS"

_OLDEST_GPU = (8, 0)
"""Compute capability of the oldest GPUs that the Triton kernels are written for (A100)."""

_listeners: ContextVar[tuple[dict[str, Path], ...]] = ContextVar("regard_kernel_paths", default=())


def choose(kernel: str, device: torch.device, path: str | None = None, *, available: Sequence[Path] = PATHS) -> Path:
    """The path that a call of ``kernel`` on tensors of ``device`` takes, which is noted for :func:`taken`.

    ``available`` are the paths that the kernel has for these inputs. Without a wish it is "triton" on an NVIDIA GPU of
    compute capability 8.0 or later where triton is installed, "cpu" on a CPU, and else "reference".

    Raises ValueError for an unknown kernel or path, and for a path that cannot run here: "cpu" is for tensors on the
    CPU, "triton" for a GPU or, with ``TRITON_INTERPRET=1`` in the environment, for Triton's interpreter.
    """
    _expect_known("kernel", kernel, KERNELS)
    wish = path if path is not None else _from_environment(kernel)
    chosen = _by_device(device, available) if wish is None else _granted(wish, kernel, device, available)
    for paths in _listeners.get():
        paths[kernel] = chosen
    return chosen


@contextmanager
def taken() -> Iterator[dict[str, Path]]:
    """The path that each kernel took inside the block, the last one where several were taken; blocks may be nested."""
    paths: dict[str, Path] = {}
    token = _listeners.set((*_listeners.get(), paths))
    try:
        yield paths
    finally:
        _listeners.reset(token)


def _granted(wish: str, kernel: str, device: torch.device, available: Sequence[Path]) -> Path:
    _expect_known(f"path of {kernel}", wish, available)
    if wish == "cpu" and device.type != "cpu":
        raise ValueError(f"{kernel}: the path 'cpu' needs tensors on the CPU, these are on {device}")
    if wish == "triton":
        _expect_triton(kernel, device)
    return cast(Path, wish)


def _expect_triton(kernel: str, device: torch.device) -> None:
    if not _triton_installed():
        raise ValueError(f"{kernel}: the path 'triton' needs the package triton")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"{kernel}: the path 'triton' needs tensors on a GPU (these are on {device}) or "
                         f"TRITON_INTERPRET=1")


def _by_device(device: torch.device, available: Sequence[Path]) -> Path:
    best: Path = "reference"
    if device.type == "cpu":
        best = "cpu"
    elif device.type == "cuda" and _triton_installed() and _recent(device):
        best = "triton"
    return best if best in available else "reference"


@functools.cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _recent(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _OLDEST_GPU


def _from_environment(kernel: str) -> str | None:
    return _wishes(os.environ.get(VARIABLE, "")).get(kernel)


@functools.lru_cache(maxsize=8)
def _wishes(text: str) -> dict[str, str]:
    """``triton`` or ``attention_mass=reference,maxsim=cpu`` as kernel -> path."""
    wishes: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kernel, equals, path = (word.strip() for word in part.rpartition("="))
        _expect_known(f"path in {VARIABLE}", path, PATHS)
        if equals:
            _expect_known(f"kernel in {VARIABLE}", kernel, KERNELS)
        wishes.update(dict.fromkeys([kernel] if equals else KERNELS, path))
    return wishes


def _expect_known(what: str, name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(valid)}")
