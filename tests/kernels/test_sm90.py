"""The Triton kernels as they are launched, compiled for an H100 or H200 without one: nothing spills, and shared memory suffices.

The host functions run on CPU tensors with the launch itself replaced by a recorder, so that what is compiled is what would be launched: same
tiles, same specialisation of the integers that are 1 or multiples of 16.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("under the interpreter there is nothing to compile", allow_module_level=True)

import triton.backends.nvidia as nvidia  # noqa: E402  (after the skips)
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

SHARED_MEMORY = 227 * 1024
"""Bytes that a block may use on compute capability 9.0."""

OPTIONS = ("num_warps", "num_stages")
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int32: "*i32",
         torch.int64: "*i64"}


@dataclass(frozen=True)
class Compiled:
    name: str
    spilled: int
    shared: int
    registers: int


def launches(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels that ``call`` would launch, with all their arguments by name."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    def record(self, *args, grid, warmup, **kwargs):
        seen.append((self, dict(zip(self.arg_names, args, strict=False)) | kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(triton.JITFunction, "run", record)
        call()
    return seen


def compiled(kernel: Any, arguments: dict[str, Any]) -> Compiled:
    """``kernel`` specialised for ``arguments`` as Triton's launcher does, and what ptxas says of it."""
    options = {name: arguments[name] for name in OPTIONS if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    made = triton.compile(ASTSource(kernel, signature, constants, attributes), target=GPUTarget("cuda", 90, 32), options=options)
    said = assembler_report(made.asm["ptx"])
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
    return Compiled(kernel.__name__, spilled, made.metadata.shared, max(map(int, re.findall(r"Used (\d+) registers", said))))


def assembler_report(ptx: str) -> str:
    """What the ptxas that Triton brings says of registers and spills."""
    ptxas = Path(nvidia.__file__).parent / "bin" / "ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        done = subprocess.run([str(ptxas), "--gpu-name=sm_90a", "-v", "-o", os.devnull, source.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bytes spill stores" in done.stderr, done.stderr
    return done.stderr


def rows(dtype: torch.dtype, width: int, heads: int = 32, kv_heads: int = 8, count: int = 40, columns: int = 10_000):
    def made(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, width, dtype=dtype)

    own = torch.ones(count, count, dtype=torch.bool)
    return made(heads, count), made(kv_heads, columns), made(kv_heads, count), torch.zeros(heads, count), own


def windowed(count: int, columns: int):
    from regard.kernels.attention_mass import Reach

    return Reach(4096, torch.arange(count), torch.arange(columns), torch.arange(count))


def mass(dtype, width, variant):
    from regard.kernels.gpu.attention_mass import attention_mass

    query, key, own, weights, visible = rows(dtype, width)
    more = {"softcap": 50.0, "reach": windowed(40, 10_000)} if variant else {"softcap": None, "reach": None}
    attention_mass(query, key, own, weights, visible=visible, scale=0.1, **more)


def attend(dtype, width, variant):
    from regard.kernels.gpu.attention_mass import attend

    query, key, own, weights, visible = rows(dtype, width)
    more = {"softcap": 50.0, "reach": windowed(40, 10_000)} if variant else {"softcap": None, "reach": None}
    attend(query, key, key, own, own, weights, visible=visible, scale=0.1, **more)


def scores(dtype, width, variant):
    from regard.kernels.gpu.head_scores import head_scores

    query, key, own, weights, visible = rows(dtype, width)
    more = {"softcap": 50.0, "reach": windowed(40, 10_000)} if variant else {"softcap": None, "reach": None}
    starts = torch.arange(0, 10_000, 150)
    head_scores(query, key, own, weights[0], starts, starts + 120, visible=visible, scale=0.1, **more)


def blocks(dtype, width, variant):
    from regard.kernels.gpu.block_attention import block_attention

    query, key, prefix, _, _ = rows(dtype, width, count=1000, columns=1000)
    more = {"softcap": 50.0, "window": 4096, "positions": (torch.arange(1000), torch.arange(1000))} if variant else \
        {"softcap": None, "window": None, "positions": None}
    block_attention(query, key, key, prefix, prefix, offsets=[0, 130, 260, 1000], scale=0.1, **more)


def shift(dtype, width, variant):
    from regard.kernels.gpu.rope_shift import rope_shift

    key = torch.empty(8, 1000, width, dtype=dtype)
    rope_shift(key, torch.arange(1000), torch.arange(1000), torch.ones(width // (4 if variant else 2)))


def filtered(dtype, width, variant):
    from regard.kernels.gpu.span_filter_sum import span_filter_sum

    starts = torch.arange(0, 10_000, 150)
    span_filter_sum(torch.empty(10_150, dtype=dtype), starts, starts + 120, deviations=2.0)


CALLS = {"attention_mass": mass, "attend": attend, "head_scores": scores, "block_attention": blocks, "rope_shift": shift,
         "span_filter_sum": filtered}
