"""The Triton kernels as they are launched, compiled for an H100 or H200 without one: nothing spills, and shared memory
suffices.

The host functions run on CPU tensors with the launch itself replaced by a recorder, so that what is compiled is what
would be launched: same tiles, same specialisation of the integers that are 1 or multiples of 16.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("under the interpreter there is nothing to compile", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402  (after the skips)
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

SHARED_MEMORY = 227 * 1024
"""Bytes that a block may use on compute capability 9.0."""

OPTIONS = ("num_warps", "num_stages")
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8",
         torch.int32: "*i32",
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


def compiled(kernel: Any, arguments: dict[str, Any], capability: int = 90) -> Compiled:
    """``kernel`` specialised for ``arguments`` as Triton's launcher does, and what ptxas says of it."""
    options = {name: arguments[name] for name in OPTIONS if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = TYPES[value.dtype] if isinstance(value,
                                                                     torch.Tensor) else "fp32" if isinstance(value, float) else "i32"  # noqa: E501
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    made = triton.compile(ASTSource(kernel, signature, constants, attributes), target=GPUTarget("cuda", capability, 32),
                          options=options)
    said = assembler_report(made.asm["ptx"], capability)
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))
    return Compiled(kernel.__name__, spilled, made.metadata.shared,
                    max(map(int, re.findall(r"Used (\d+) registers", said))))


def check(made: Compiled, limit: int = SHARED_MEMORY) -> None:
    assert made.spilled == 0, made
    assert made.shared <= limit, made


def assembler_report(ptx: str, capability: int) -> str:
    """What the ptxas that Triton brings says of registers and spills."""
    name = f"sm_{capability}{'a' if capability == 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        command = [get_ptxas(capability).path, f"--gpu-name={name}", "-v", "-o", os.devnull, source.name]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bytes spill stores" in done.stderr, done.stderr
    return done.stderr


MIXED = "bfloat16 rows, float16 cache"
SPECIAL = {"softcap": 50.0, "window": 4096}
PLAIN = {"softcap": None, "window": None}


def row_inputs(dtype: torch.dtype | str, width: int, heads: int = 32, kv_heads: int = 8, count: int = 40,
               columns: int = 10_000):
    new, kept = (torch.bfloat16, torch.float16) if dtype == MIXED else (dtype, dtype)
    return {"query": torch.empty(heads, count, width, dtype=new),
            "key": torch.empty(kv_heads, columns, width, dtype=kept),
            "own_key": torch.empty(kv_heads, count, width, dtype=new), "row_weights": torch.zeros(heads, count),
            "visible": torch.ones(count, count, dtype=torch.bool), "scale": 0.1}


def limits(count: int, columns: int, softcap: float | None, window: int | None) -> dict[str, Any]:
    from regard.kernels.attention_mass import Reach

    reach = None if window is None else Reach(window, torch.arange(count), torch.arange(columns), torch.arange(count))
    return {"softcap": softcap, "reach": reach}


def mass(dtype, width, **special):
    from regard.kernels.gpu.attention_mass import attention_mass

    attention_mass(**row_inputs(dtype, width), **limits(40, 10_000, **special))


def attend(dtype, width, **special):
    from regard.kernels.gpu.attention_mass import attend

    made = row_inputs(dtype, width)
    attend(**made, value=made["key"], own_value=made["own_key"], **limits(40, 10_000, **special))


def scores(dtype, width, **special):
    from regard.kernels.gpu.head_scores import head_scores

    made = row_inputs(dtype, width) | {"row_weights": torch.zeros(40)}
    starts = torch.arange(0, 9_990, 150)
    head_scores(**made, starts=starts, stops=starts + 120, **limits(40, 10_000, **special))


def blocks(dtype, width, softcap, window):
    from regard.kernels.gpu.block_attention import block_attention

    made = row_inputs(dtype, width, count=1000, columns=200)
    block_attention(made["query"], made["own_key"], made["own_key"], made["key"], made["key"],
                    offsets=[0, 130, 260, 1000], scale=0.1,
                    softcap=softcap, window=window, positions=(torch.arange(1000), torch.arange(200)))


def shift(dtype, width, softcap, window):
    from regard.kernels.gpu.rope_shift import rope_shift

    rope_shift(torch.empty(8, 1000, width, dtype=dtype), torch.arange(1000), torch.arange(1000),
               torch.ones(width // (4 if window else 2)))


def filtered(dtype, width, softcap, window):
    from regard.kernels.gpu.span_filter_sum import span_filter_sum

    starts = torch.arange(0, 9_990, 150)
    span_filter_sum(torch.empty(10_150, dtype=dtype), starts, starts + 120, deviations=2.0)


OF_ROWS = {"attention_mass": mass, "attend": attend, "head_scores": scores, "block_attention": blocks}
OTHERS = {"rope_shift": shift, "span_filter_sum": filtered}
CALLS = OF_ROWS | OTHERS

IN_FULL = [
    pytest.param(name, dtype, width, special, id=f"{name}-{str(dtype).removeprefix('torch.')}-{width}-{kind}",
                 marks=[] if (dtype, width, kind) == (torch.bfloat16, 128, "plain") else [pytest.mark.slow])
    for name in OF_ROWS
    for dtype in (torch.bfloat16, torch.float32, MIXED)
    for width in (64, 96, 128, 256)
    for kind, special in (("plain", PLAIN), ("special", SPECIAL))
] + [pytest.param(name, dtype, 64, special,
                  id=f"{name}-{str(dtype).removeprefix('torch.')}-{'plain' if special is PLAIN else 'special'}")
     for name in OTHERS for dtype in (torch.bfloat16, torch.float32) for special in (PLAIN, SPECIAL)]


@pytest.mark.parametrize(("name", "dtype", "width", "special"), IN_FULL)
def test_fits_an_h100(monkeypatch, name, dtype, width, special):
    if triton.__version__ < "3.9" and (name, dtype, special) == ("block_attention", MIXED, SPECIAL) and width in (96,
                                                                                                                  128):
        pytest.skip("the assembler of older releases spills 16 bytes here, and nowhere else")
    found = launches(monkeypatch, lambda: CALLS[name](dtype, width, **special))
    assert found
    for kernel, arguments in found:
        check(compiled(kernel, arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("width", [128, 256])
def test_fits_a_gpu_with_less_shared_memory(monkeypatch, name, width):
    """Compute capability 8.9 has 99 KiB; spills are not held against it."""
    from regard.kernels.gpu import tiles

    monkeypatch.setattr(tiles, "_shared_memory", lambda device: 99 * 1024)
    for kernel, arguments in launches(monkeypatch, lambda: CALLS[name](torch.bfloat16, width, **PLAIN)):
        assert compiled(kernel, arguments, capability=89).shared <= 99 * 1024


def test_a_tile_that_is_too_large_is_caught(monkeypatch):
    """The check can fail: on spills and on shared memory."""
    from regard.kernels.gpu import block_attention
    from regard.kernels.gpu.tiles import Tiles

    monkeypatch.setattr(block_attention, "_TILES", {512: Tiles(128, 128, 8, 3)})
    [(kernel, arguments)] = launches(monkeypatch, lambda: blocks(torch.bfloat16, 256, **PLAIN))
    made = compiled(kernel, arguments)
    assert made.spilled > 0
    assert made.shared > SHARED_MEMORY
    with pytest.raises(AssertionError):
        check(made)
