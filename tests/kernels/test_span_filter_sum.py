"""span_filter_sum against a plain loop over Python floats."""

import statistics

import pytest
import torch
from regard.kernels.span_filter_sum import span_filter_sum


def plain(values: list[float]) -> float:
    if len(values) < 2:
        return sum(values)
    floor = statistics.mean(values) - 2 * statistics.stdev(values)
    return sum(v for v in values if v > floor)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_plain_loop_on_ragged_spans(seed):
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(400, generator=random) ** 3  # heavy tails, so that the filter drops some
    spans = [(0, 1), (1, 3), (3, 3), (5, 205), (205, 250), (250, 400)]
    wanted = [plain(values[a:b].double().tolist()) for a, b in spans]
    assert [sum(values[a:b].tolist()) for a, b in spans] != pytest.approx(wanted, rel=1e-3)
    assert span_filter_sum(values, spans).tolist() == pytest.approx(wanted, rel=1e-6)


def test_drops_the_low_outlier_and_keeps_the_high_one():
    values = torch.tensor([1.0] * 20 + [-50.0] + [1.0] * 20 + [50.0])
    assert span_filter_sum(values, [(0, 21), (21, 42)]).tolist() == [20.0, 70.0]


def test_one_token_no_token_and_equal_tokens():
    values = torch.tensor([0.1, -3.0, 0.7, 0.7, 0.7])
    assert span_filter_sum(values, [(1, 2), (2, 2), (2, 5)]).tolist() == pytest.approx([-3.0, 0.0, 2.1])


def test_no_spans():
    assert span_filter_sum(torch.ones(3), []).shape == (0,)
