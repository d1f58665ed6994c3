"""Which path a kernel takes, and how a caller learns of it."""

import pytest
import torch
from regard.kernels.dispatch import KERNELS, PATHS, choose, taken
from regard.kernels.span_filter_sum import span_filter_sum

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv("REGARD_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_device_decides_where_nobody_asks():
    assert choose("maxsim", CPU) == "cpu"
    assert choose("maxsim", torch.device("mps")) == "reference"
    assert choose("maxsim", CPU, available=["reference", "triton"]) == "reference"


def test_the_argument_goes_before_the_environment_and_that_before_the_device(monkeypatch):
    monkeypatch.setenv("REGARD_KERNELS", "reference")
    assert choose("maxsim", CPU) == "reference"
    assert choose("maxsim", CPU, "cpu") == "cpu"


def test_the_environment_names_single_kernels(monkeypatch):
    monkeypatch.setenv("REGARD_KERNELS", "attention_mass=reference, maxsim = cpu")
    assert [choose(kernel, CPU) for kernel in ("attention_mass", "maxsim", "rope_shift")] == ["reference", "cpu", "cpu"]


@pytest.mark.parametrize("setting", ["fast", "attention_mas=cpu", "maxsim=fast", "maxsim="])
def test_a_setting_that_means_nothing_names_what_would(monkeypatch, setting):
    monkeypatch.setenv("REGARD_KERNELS", setting)
    with pytest.raises(ValueError, match=r"REGARD_KERNELS.*valid: ") as error:
        choose("maxsim", CPU)
    assert any(all(name in str(error.value) for name in valid) for valid in (PATHS, KERNELS))


def test_unknown_names_and_paths_that_cannot_run_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown kernel 'attention'.*attention_mass"):
        choose("attention", CPU)
    with pytest.raises(ValueError, match=r"unknown path of maxsim 'gpu'.*reference, cpu, triton"):
        choose("maxsim", CPU, "gpu")
    with pytest.raises(ValueError, match=r"unknown path of maxsim 'cpu'.*valid: reference$"):
        choose("maxsim", CPU, "cpu", available=["reference"])
    with pytest.raises(ValueError, match="needs tensors on the CPU"):
        choose("maxsim", torch.device("cuda", 0), "cpu")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        choose("maxsim", CPU, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("maxsim", CPU, "triton") == "triton"


def test_listeners_hear_the_calls_inside_them():
    with taken() as outer:
        span_filter_sum(torch.ones(3), [(0, 2)])
        with taken() as inner:
            choose("maxsim", CPU, "reference")
        choose("span_filter_sum", CPU, "reference")
    choose("rope_shift", CPU)
    assert inner == {"maxsim": "reference"}
    assert outer == {"span_filter_sum": "reference", "maxsim": "reference"}


def test_a_failing_block_leaves_no_listener_behind():
    with pytest.raises(KeyError), taken() as heard:
        raise KeyError
    choose("maxsim", CPU)
    assert heard == {}
