"""The kernels' tests run twice: here on the CPU path, and, started by ``test_triton.py`` with
``REGARD_TEST_PATH=triton``, on the Triton path (on a GPU where there is one, else under Triton's interpreter)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import torch

PATH = os.environ.get("REGARD_TEST_PATH", "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(scope="session")
def path() -> str:
    """The path under test; pass it to the kernel."""
    return PATH


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if PATH == "triton" and not INTERPRETED else "cpu")


@pytest.fixture(scope="session")
def on_cpu() -> None:
    """For a test that says nothing about the Triton path."""
    if PATH != "cpu":
        pytest.skip("about the CPU path")


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs one after the other: a few splits show what many would."""
    if INTERPRETED:
        from regard.kernels.gpu import softmax

        monkeypatch.setattr(softmax, "_PROGRAMS_WANTED", 12)


@pytest.fixture
def generator() -> torch.Generator:
    """Fresh random numbers; a failing test shows the seed, and ``REGARD_TEST_SEED`` repeats it."""
    seed = int(os.environ.get("REGARD_TEST_SEED", random.SystemRandom().randrange(2**31)))
    print(f"REGARD_TEST_SEED={seed}")
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def rounded() -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    """A tensor in a dtype; in bfloat16 under the interpreter, whose products of bfloat16 are wrong, its rounded values
    in float32."""

    def convert(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        low = tensor.to(dtype)
        return low.float() if dtype == torch.bfloat16 and INTERPRETED else low

    return convert


@pytest.fixture(scope="session")
def relative_error() -> Callable[..., float]:
    """The norm of the difference over that of ``wanted``, or of ``terms``: for a sum whose signed terms may cancel,
    what it adds up."""

    def measure(got: torch.Tensor, wanted: torch.Tensor, terms: torch.Tensor | None = None) -> float:
        assert got.shape == wanted.shape
        assert got.isfinite().all()
        assert wanted.isfinite().all()
        size = (wanted if terms is None else terms).double().norm()
        difference = (got.cpu().double() - wanted.cpu().double()).norm()
        return float(difference / size) if size > 0 else float(difference)

    return measure
