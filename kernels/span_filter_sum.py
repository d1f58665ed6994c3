"""A span's score: the sum of its tokens' values without the low outliers (ICR, Chen et al. 2024, arXiv 2410.02642)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def span_filter_sum(values: Tensor, spans: Sequence[tuple[int, int]], *, deviations: float = 2.0) -> Tensor:
    """For each half-open span the sum of ``values`` that are not below ``mean - deviations * std`` of the span.

    ``values`` [tokens] of any float dtype, ``spans`` non-overlapping or not, in any order; returns float32 [spans]. The standard
    deviation is the unbiased one. An empty span scores 0, and a span of one token, which has no deviation, keeps it.

    Statistics and sums are in float64. The published code keeps what is *above* the threshold; here a value equal to it stays,
    which matters only where all the values of a span are equal (nothing is an outlier then; the published code drops them all).
    """
    exact = values.double()
    sums = exact.new_empty(len(spans))
    for i, (start, stop) in enumerate(spans):
        sums[i] = _kept(exact[start:stop], deviations)
    return sums.float()


def _kept(values: Tensor, deviations: float) -> Tensor:
    if len(values) < 2:
        return values.sum()
    return values[values >= values.mean() - deviations * values.std(correction=1)].sum()
