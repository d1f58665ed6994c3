"""Tensors whose tokens lie so far apart that a token's number times its stride does not fit 32 bits.

They are views of a sparse file: of its 6 GB only the pages that hold the tokens exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from regard.kernels.attention_mass import attend, attention_mass
from regard.kernels.block_attention import block_attention
from regard.kernels.head_scores import head_scores
from regard.kernels.rope_shift import rope_shift
from torch import Tensor

ELEMENTS = int(1.4 * 2**31)
HEADS, KV_HEADS, ROWS, TOKENS, WIDTH = 4, 2, 5, 40, 16
AREA = HEADS * WIDTH
"""Elements between the tensors in the file: a token of all heads."""

Spread = Callable[[Tensor], Tensor]


@pytest.fixture
def spread(tmp_path, device) -> Iterator[Spread]:
    """A copy [heads, tokens, d] of a tensor whose last token lies beyond 1.37 x 2^31 elements."""
    if device.type == "cuda":
        room = torch.empty(ELEMENTS, dtype=torch.float16, device=device)
    else:
        room = torch.from_numpy(np.memmap(tmp_path / "sparse", dtype=np.float16, mode="w+", shape=ELEMENTS))
    made = 0

    def copy(tensor: Tensor) -> Tensor:
        nonlocal made
        heads, tokens, width = tensor.shape
        stride = (ELEMENTS - 16 * AREA) // (tokens - 1) // 16 * 16
        view = room.as_strided((heads, tokens, width), (width, stride, 1), made * AREA)
        made += 1
        assert (tokens - 1) * stride > 1.37 * 2**31
        return view.copy_(tensor)

    yield copy
    (tmp_path / "sparse").unlink(missing_ok=True)


@pytest.fixture
def random(generator, device) -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(*shape, generator=generator).half().to(device)


def test_attention_to_and_from_rows_far_apart(spread, random, path, device):
    query, own_key, own_value = random(HEADS, ROWS, WIDTH), random(KV_HEADS, ROWS, WIDTH), random(KV_HEADS, ROWS, WIDTH)
    key, value = random(KV_HEADS, TOKENS, WIDTH), random(KV_HEADS, TOKENS, WIDTH)
    about = {"visible": torch.ones(ROWS, ROWS, dtype=torch.bool, device=device).tril(), "scale": 0.25, "path": path}
    weights = torch.full((HEADS, ROWS), 0.2, device=device)
    far = [spread(t) for t in (query, key, value, own_key, own_value)]
    output, mass = attend(query, key, value, own_key, own_value, weights, **about)
    far_output, far_mass = attend(*far, weights, **about)
    assert torch.equal(far_output, output)
    assert torch.equal(far_mass, mass)
    far_query, far_key, _, far_own, _ = far
    assert torch.equal(attention_mass(far_query, far_key, far_own, weights, **about),
                       attention_mass(query, key, own_key, weights, **about))
    spans = [(0, 7), (7, TOKENS)]
    assert torch.equal(head_scores(far_query, far_key, far_own, weights[0], spans, **about),
                       head_scores(query, key, own_key, weights[0], spans, **about))


def test_blocks_far_apart(spread, random, path):
    query, key, value = random(HEADS, TOKENS, WIDTH), random(KV_HEADS, TOKENS, WIDTH), random(KV_HEADS, TOKENS, WIDTH)
    before, values_before = random(KV_HEADS, ROWS, WIDTH), random(KV_HEADS, ROWS, WIDTH)
    about = {"offsets": [0, 11, TOKENS], "scale": 0.25, "path": path}
    tensors = query, key, value, before, values_before
    assert torch.equal(block_attention(*map(spread, tensors), **about), block_attention(*tensors, **about))


def test_keys_far_apart_are_moved(spread, random, path, device):
    key = random(KV_HEADS, TOKENS, WIDTH)
    index = torch.arange(TOKENS - 1, -1, -1, device=device)
    turns = index * 3, 10.0 ** -torch.arange(WIDTH // 2, device=device)
    assert torch.equal(rope_shift(spread(key), index, *turns, path=path), rope_shift(key, index, *turns, path=path))
