"""From what each token was paid to one score a passage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ....rag.nouns import Scores

if TYPE_CHECKING:
    from ....rag.lm.passages import Prompt


def summed(mass: NDArray[np.float32], prompt: Prompt, deviations: float | None) -> Scores:
    """Each passage's mass, float32 [passages], without low outliers."""
    if deviations is None:
        return np.array([mass[start:stop].sum(dtype=np.float64) for start, stop in prompt.spans], dtype=np.float32)
    import torch

    from ....kernels.span_filter_sum import span_filter_sum

    scores: Scores = span_filter_sum(torch.from_numpy(mass), prompt.spans, deviations=deviations).numpy()
    return scores


def fused(attention: Scores, first_stage: Scores, weight: float) -> Scores:
    """The weighted sum of both, each brought to mean 0 and standard deviation 1 over the candidates (all 0 where they
    are equal)."""
    both = weight * _standard(attention) + (1 - weight) * _standard(first_stage)
    return both.astype(np.float32)


def _standard(scores: Scores) -> NDArray[np.float64]:
    exact = scores.astype(np.float64)
    spread = exact.std()
    return (exact - exact.mean()) / spread if spread > 0 else np.zeros(len(exact))
