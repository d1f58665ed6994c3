"""A span's score: the sum of its tokens' values without the low outliers (ICR, Chen et al. 2024, arXiv 2410.02642)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import choose
from .spans import bounds


def span_filter_sum(
    values: Tensor, spans: Sequence[tuple[int, int]], *, deviations: float = 2.0, path: str | None = None,
) -> Tensor:
    """For each half-open span the sum of ``values`` that are not below ``mean - deviations * std`` of the span.

    ``values`` [tokens] of any float dtype, ``spans`` non-overlapping or not, in any order; returns float32 [spans]. The
    standard deviation is the unbiased one. An empty span scores 0, and a span of one token, which has no deviation,
    keeps it.

    Statistics and sums are in float64. The published code keeps what is *above* the threshold; here a value equal to it
    stays, which matters only where all the values of a span are equal (nothing is an outlier then; the published code
    drops them all). ``path`` forces a path (see ``dispatch``). Raises ValueError for a span outside ``values`` and for
    a path that cannot run.
    """
    starts, stops = bounds(spans, len(values))
    taken = choose("span_filter_sum", values.device, path)
    if taken == "triton":
        from .gpu.span_filter_sum import span_filter_sum as on_gpu

        return on_gpu(values, starts, stops, deviations=deviations)
    if taken == "reference":
        return span_filter_sum_reference(values, spans, deviations=deviations)
    return _all_at_once(values, starts, stops, deviations)


def span_filter_sum_reference(values: Tensor, spans: Sequence[tuple[int, int]], *, deviations: float = 2.0) -> Tensor:
    """The definition, a span at a time, in float64."""
    exact = values.double()
    sums = exact.new_empty(len(spans))
    for i, (start, stop) in enumerate(spans):
        sums[i] = _kept(exact[start:stop], deviations)
    return sums.float()


def _kept(values: Tensor, deviations: float) -> Tensor:
    if len(values) < 2:
        return values.sum()
    return values[values >= values.mean() - deviations * values.std(correction=1)].sum()


def _all_at_once(values: Tensor, starts: Tensor, stops: Tensor, deviations: float) -> Tensor:
    """The spans' values side by side, so that each statistic is one segmented sum."""
    if not len(starts):
        return values.new_empty(0, dtype=torch.float32)
    lengths = stops - starts
    span = torch.repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    token = torch.arange(len(span)) - (first - starts)[span]
    exact = values.double()[token]

    def total(of: Tensor) -> Tensor:
        return torch.segment_reduce(of, "sum", lengths=lengths, initial=0.0)

    centred = exact - (total(exact) / lengths)[span]
    # Of a span of one token both sides of the comparison are 0: it is kept without an exception.
    floor = -deviations * (total(centred.square()) / (lengths - 1).clamp(min=1)).sqrt()
    return total(exact.where(centred >= floor[span], 0.0)).float()
