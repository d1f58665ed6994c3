"""The search kernels as they are launched, compiled for an H100 or H200 without one, by ``test_sm90``'s means."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton")


def load_sm90() -> ModuleType:
    """test_sm90 as a module: pytest's import mode keeps test files apart."""
    spec = importlib.util.spec_from_file_location("sm90_means", Path(__file__).with_name("test_sm90.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


sm90 = load_sm90()
sm90.TYPES[torch.int8] = "*i8"


def topk(dtype: torch.dtype, batch: int, width: int, kind: str | None) -> None:
    from regard.kernels.codes import Codes
    from regard.kernels.gpu.topk_search import topk_search

    n, codes = 4096, None
    if kind is not None:
        words = torch.zeros(n, width, dtype=torch.int8) if kind == "int8" else torch.zeros(n, width // 64,
                                                                                           dtype=torch.int64)
        codes = Codes(words, torch.zeros(n), torch.zeros(width, width))
    topk_search(torch.zeros(batch, width, dtype=dtype), torch.zeros(n, width, dtype=dtype), 100, codes, 200)


def maxsim(dtype: torch.dtype, count: int, width: int) -> None:
    from regard.kernels.gpu.maxsim import maxsim

    offsets, scales = torch.arange(0, 1_001, 100), torch.ones(1_000) if dtype == torch.int8 else None
    maxsim(torch.zeros(2, count, width, dtype=torch.float32 if scales is not None else dtype),
           torch.zeros(1_000, width, dtype=dtype),
           offsets, scales)


def expect_fit(found: list) -> None:
    assert found
    for kernel, arguments in found:
        made = sm90.compiled(kernel, arguments)
        assert made.spilled == 0, made
        assert made.shared <= sm90.SHARED_MEMORY, made


@pytest.mark.parametrize(("dtype", "batch", "kind"), [
    (torch.bfloat16, 1, None), (torch.bfloat16, 256, None), (torch.float32, 1, None), (torch.float32, 256, None),
    (torch.bfloat16, 1, "int8"), (torch.bfloat16, 256, "int8"), (torch.bfloat16, 1, "binary"),
    (torch.bfloat16, 256, "binary"),
])
def test_topk_search_fits_an_h100(monkeypatch, dtype, batch, kind):
    # nothing was launched: scores are garbage
    monkeypatch.setattr(torch.Tensor, "isposinf", lambda self: torch.zeros(1, dtype=torch.bool))
    monkeypatch.setattr(torch.Tensor, "isnan", lambda self: torch.zeros(1, dtype=torch.bool))
    found = sm90.launches(monkeypatch, lambda: topk(dtype, batch, 384, kind))
    assert [kernel.__name__ for kernel, _ in found] == ["bin_maxima", "score_bins"]
    expect_fit(found)


@pytest.mark.parametrize(("dtype", "count", "width"), [
    (torch.bfloat16, 32, 128), (torch.float32, 32, 128), (torch.int8, 32, 128), (torch.bfloat16, 200, 96),
    pytest.param(torch.bfloat16, 32, 768, marks=pytest.mark.slow),
    pytest.param(torch.float32, 32, 768, marks=pytest.mark.slow),
])
def test_maxsim_fits_an_h100(monkeypatch, dtype, count, width):
    found = sm90.launches(monkeypatch, lambda: maxsim(dtype, count, width))
    assert [kernel.__name__ for kernel, _ in found] == ["score_passages"]
    expect_fit(found)
