"""span_filter_sum against a plain loop over Python floats."""

import random
import statistics

import pytest
import torch
from regard.kernels.dispatch import taken
from regard.kernels.span_filter_sum import span_filter_sum, span_filter_sum_reference


def plain(values: list[float], deviations: float = 2.0) -> float:
    if len(values) < 2:
        return sum(values)
    floor = statistics.mean(values) - deviations * statistics.stdev(values)
    return sum(v for v in values if v > floor)


@pytest.mark.parametrize("deviations", [2.0, 0.5])
def test_equals_a_plain_loop_on_ragged_spans(generator, path, device, deviations):
    values = torch.randn(700, generator=generator) ** 3  # heavy tails, so that the filter drops some
    spans = [(0, 1), (1, 3), (3, 3), (5, 205), (100, 250), (250, 600), (0, 700), (700, 700)]
    wanted = [plain(values[a:b].double().tolist(), deviations) for a, b in spans]
    assert [sum(values[a:b].tolist()) for a, b in spans] != pytest.approx(wanted, rel=1e-3)
    with taken() as paths:
        got = span_filter_sum(values.to(device), spans, deviations=deviations, path=path)
    assert paths == {"span_filter_sum": path}
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert span_filter_sum_reference(values, spans, deviations=deviations).tolist() == pytest.approx(wanted, rel=1e-6,
                                                                                                     abs=1e-6)


def test_drops_the_low_outlier_and_keeps_the_high_one(path, device):
    values = torch.tensor([1.0] * 20 + [-50.0] + [1.0] * 20 + [50.0], device=device)
    assert span_filter_sum(values, [(0, 21), (21, 42)], path=path).tolist() == [20.0, 70.0]


def test_one_token_no_token_and_equal_tokens(path, device):
    values = torch.tensor([0.1, -3.0, 0.7, 0.7, 0.7], device=device)
    assert span_filter_sum(values, [(1, 2), (2, 2), (2, 5)], path=path).tolist() == pytest.approx([-3.0, 0.0, 2.1])
    alike = torch.full((1000,), random.random(), device=device)
    assert span_filter_sum(alike, [(0, 1000)], path=path).item() == pytest.approx(1000 * float(alike[0]))


def test_the_mean_does_not_drown_the_deviation(path, device):
    """In float32 the deviation of 1 beside a mean of a million would be lost."""
    values = 1e6 + torch.tensor([0.0, 0.5, 1.0, 1.5] * 10 + [-50.0], device=device)
    assert span_filter_sum(values, [(0, 41)], path=path).item() == pytest.approx(40e6 + 30, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(generator, path, device, dtype):
    values = torch.randn(50, generator=generator).to(dtype)
    assert span_filter_sum(values.to(device), [(3, 50)],
                           path=path).item() == pytest.approx(plain(values[3:].double().tolist()), rel=1e-6)


def test_no_spans(path, device):
    assert span_filter_sum(torch.ones(3, device=device), [], path=path).shape == (0,)


@pytest.mark.parametrize("span", [(-1, 2), (2, 1), (0, 4)])
def test_a_span_outside_the_values_is_refused(span):
    with pytest.raises(ValueError, match="is not within 3 tokens"):
        span_filter_sum(torch.ones(3), [(0, 1), span])
