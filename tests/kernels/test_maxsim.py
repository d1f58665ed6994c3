"""maxsim against its definition in float64: ragged, empty and one-token passages, batches, masks, codes, NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.kernels.dispatch import taken
from regard.kernels.maxsim import maxsim, maxsim_reference, quantize_tokens

STORED = [torch.float32, torch.float16, torch.bfloat16]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def definition(query: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """A loop over plain numbers, float64 [n]."""
    scores = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        products = query.double() @ tokens[start:stop].double().T
        scores.append(sum(max(row) for row in products.tolist()) if stop > start else 0.0)
    return torch.tensor(scores, dtype=torch.float64)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.isfinite().all()
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-12))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 70), d=st.integers(1, 140), dtype=st.sampled_from(STORED),
    lengths=st.lists(st.sampled_from([0, 0, 1, 1, 2, 5, 11, 12, 13, 40]), max_size=20),
)
def test_equals_the_definition(seed, count, d, dtype, lengths):
    offsets = offsets_of(lengths)
    query, tokens = random(seed, count, d), random(seed + 1, sum(lengths), d).to(dtype)
    got = maxsim(query, tokens, offsets)
    assert got.shape == (len(lengths),)
    assert got.dtype == torch.float32
    if any(lengths):  # relative to what is summed: the sum itself may be next to nothing
        summed = float(query.double().norm(dim=1).sum() * tokens.double().norm(dim=1).max())
        assert float((got - definition(query, tokens, offsets)).abs().max()) < 1e-6 * summed
    assert (got[[i for i, n in enumerate(lengths) if n == 0]] == 0).all()


def test_absolute_scale_of_negative_products():
    """A passage whose every product is negative scores below an empty one, by exactly its best products."""
    query, tokens = torch.ones(3, 4), -torch.arange(1.0, 6.0)[:, None].expand(5, 4)
    assert maxsim(query, tokens, torch.tensor([0, 0, 2, 5])).tolist() == [0, -12, -36]


def test_many_passages_on_many_threads_repeat_and_do_not_depend_on_their_neighbours():
    lengths = torch.randint(0, 60, (1_000,), generator=torch.Generator().manual_seed(0)).tolist()
    offsets, tokens, query = offsets_of(lengths), random(1, sum(lengths), 24), random(2, 20, 24)
    scores = maxsim(query, tokens, offsets)
    assert relative_error(scores, definition(query, tokens, offsets)) < 1e-6
    assert torch.equal(maxsim(query, tokens, offsets), scores)
    for i in range(0, 1_000, 97):
        alone = maxsim(query, tokens[offsets[i]:offsets[i + 1]], torch.tensor([0, lengths[i]]))
        assert torch.equal(alone[0], scores[i])


@pytest.mark.parametrize("codes", [False, True])
def test_a_batch_gives_what_single_queries_give(codes):
    tokens, offsets, batch = random(0, 300, 48), offsets_of([100, 0, 1, 199]), random(1, 9, 13, 48)
    scales = None
    if codes:
        tokens, scales = quantize_tokens(tokens)
    together = maxsim(batch, tokens, offsets, scales=scales)
    assert together.shape == (9, 4)
    assert all(torch.equal(maxsim(query, tokens, offsets, scales=scales), row)
               for query, row in zip(batch, together, strict=True))


def test_a_masked_token_counts_nothing_whatever_it_is():
    tokens, offsets, batch = random(0, 90, 20), offsets_of([40, 50]), random(1, 2, 8, 20)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = mask[1, 2:4] = False
    wanted = torch.stack([maxsim(query[keep], tokens, offsets) for query, keep in zip(batch, mask, strict=True)])
    batch[~mask] = torch.nan
    torch.testing.assert_close(maxsim(batch, tokens, offsets, query_mask=mask), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(maxsim(batch[0], tokens, offsets, query_mask=mask[0]), wanted[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [5, 32, 70])
@pytest.mark.parametrize("d", [33, 128])
def test_codes_score_what_their_numbers_say_and_nearly_what_the_vectors_say(count, d):
    lengths = [0, 1, 30, 77, 12]
    offsets, tokens, query = offsets_of(lengths), random(0, sum(lengths), d), random(1, count, d)
    codes, scales = quantize_tokens(tokens)
    assert codes.dtype == torch.int8
    got = maxsim(query, codes, offsets, scales=scales)
    query_codes, query_scales = quantize_tokens(query)
    whole = definition(query_codes * query_scales[:, None].double(), codes * scales[:, None].double(), offsets)
    assert relative_error(got, whole) < 1e-6
    assert relative_error(got, definition(query, tokens, offsets)) < 0.02
    torch.testing.assert_close(maxsim(query, codes, offsets, scales=scales, path="reference"), got, rtol=1e-5,
                               atol=1e-4)


def test_quantize_tokens_is_right_to_half_a_step():
    tokens = random(0, 50, 16)
    tokens[7] = 0
    codes, scales = quantize_tokens(tokens)
    assert ((codes * scales[:, None] - tokens).abs() <= scales[:, None] / 2 + 1e-7).all()
    assert int(codes.abs().max()) == 127
    with pytest.raises(ValueError, match="NaN"):
        quantize_tokens(tokens.index_fill(0, torch.tensor([3]), torch.nan))


@pytest.mark.parametrize("path", ["cpu", "reference"])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_nan_makes_its_passage_nan_and_no_other(path, at):
    tokens, offsets = random(0, 30, 6), offsets_of([10, 10, 10])
    tokens[10 + at, 2] = torch.nan
    scores = maxsim(random(1, 20, 6), tokens, offsets, path=path)
    assert scores.isnan().tolist() == [False, True, False]
    query = random(1, 20, 6)
    query[at] = torch.nan
    assert maxsim(query, tokens, offsets, path=path).isnan().all()


@pytest.mark.parametrize("shape", [(0, 8), (3, 8), (0, 4, 8), (2, 0, 8), (2, 3, 8)])
@pytest.mark.parametrize("lengths", [[], [0, 0], [5]])
@pytest.mark.parametrize("path", ["cpu", "reference"])
def test_nothing_to_score(shape, lengths, path):
    scores = maxsim(torch.ones(shape), torch.ones(sum(lengths), 8), offsets_of(lengths), path=path)
    assert scores.shape == (*shape[:-2], len(lengths))
    assert (scores == (0 if 0 in lengths or (len(shape) == 3 and shape[1] == 0) else 8 * shape[-2])).all()


def test_bad_arguments_are_named():
    query, tokens, offsets = torch.ones(2, 4), torch.ones(5, 4), torch.tensor([0, 5])
    codes, scales = quantize_tokens(tokens)
    for call, match in [
        (lambda: maxsim(query[:, :3], tokens, offsets), "shape"),
        (lambda: maxsim(query, tokens, torch.tensor([0, 6])), "offsets"),
        (lambda: maxsim(query, tokens, torch.tensor([0, 3, 2])), "offsets"),
        (lambda: maxsim(query, tokens, torch.tensor([], dtype=torch.int64)), "offsets"),
        (lambda: maxsim(query, tokens, offsets, query_mask=torch.ones(3, dtype=torch.bool)), "query_mask"),
        (lambda: maxsim(query, tokens, offsets, path="gpu"), "unknown path"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    for call in (lambda: maxsim(query, codes, offsets), lambda: maxsim(query, tokens, offsets, scales=scales),
                 lambda: maxsim(query, codes, offsets, scales=scales[:3])):
        with pytest.raises(TypeError, match="int8"):
            call()


def test_says_which_path_it_took_and_the_reference_keeps_float64():
    with taken() as paths:
        maxsim(torch.ones(1, 4), torch.ones(5, 4), torch.tensor([0, 5]))
    assert paths == {"maxsim": "cpu"}
    assert maxsim_reference(torch.ones(1, 1, 4).double(), torch.ones(5, 4).double(),
                            torch.tensor([0, 5])).dtype == torch.float64
