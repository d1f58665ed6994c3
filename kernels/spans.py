"""Half-open spans of tokens as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bounds(spans: Sequence[tuple[int, int]], tokens: int) -> tuple[Tensor, Tensor]:
    """The spans' starts and stops, int64 [spans] each, on the CPU. Raises ValueError for one that is not within
    ``tokens``."""
    table = torch.tensor([tuple(span) for span in spans], dtype=torch.int64).reshape(-1, 2)
    starts, stops = table.T.contiguous()  # each dense, as the GPU's kernels read them
    wrong = (starts < 0) | (stops < starts) | (stops > tokens)
    if wrong.any():
        raise ValueError(f"span {tuple(table[wrong][0].tolist())} is not within {tokens} tokens")
    return starts, stops
