"""block_attention against its definition in float64 and against torch's attention, block by block."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.kernels import block_attention as module
from regard.kernels.block_attention import block_attention, block_attention_reference
from regard.kernels.dispatch import taken

SHAPES = [
    # heads, KV heads, width, prefix, offsets
    (9, 3, 64, 20, (0, 0, 5, 40, 41, 100, 100)), (8, 8, 96, 0, (0, 7, 50)), (8, 1, 128, 70, (0, 33)),
    (2, 1, 256, 3, (0, 1, 45)),
    (5, 1, 64, 64, (0, 64)), (14, 2, 64, 1, (0, 30, 31)), (6, 1, 64, 0, (0, 1, 2, 3)), (3, 3, 64, 10, (0, 150)),
]
KINDS = ["plain", "softcap", "window"]


def problem(generator, heads, kv_heads, width, prefix, offsets, kind="plain"):
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    tokens = offsets[-1]
    inputs = {"query": random(heads, tokens, width), "key": random(kv_heads, tokens, width),
              "value": random(kv_heads, tokens, width),
              "prefix_key": random(kv_heads, prefix, width), "prefix_value": random(kv_heads, prefix, width)}
    # Shared positions: every block begins where the prefix ends.
    rows = torch.cat([torch.arange(0), *(prefix + torch.arange(stop - start) for start, stop in pairwise(offsets))])
    rows = torch.stack([rows, rows], dim=1)[:, 0]  # strided, as a column of a table is
    return inputs, {"offsets": offsets, "scale": width**-0.5, "softcap": 3.0 if kind == "softcap" else None,
                    "window": 15 if kind == "window" else None,
                    "positions": (rows, torch.arange(prefix)) if kind == "window" else None}


def moved(inputs, how, device):
    positions = how["positions"] and tuple(part.to(device) for part in how["positions"])
    return {name: tensor.to(device) for name, tensor in inputs.items()}, how | {"positions": positions}


def exact(inputs):
    return {name: tensor.double() for name, tensor in inputs.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(generator, path, device, relative_error, shape, kind):
    inputs, how = problem(generator, *shape, kind)
    wanted = block_attention_reference(**exact(inputs), **how)
    here, there = moved(inputs, how, device)
    before = {name: tensor.clone() for name, tensor in here.items()}
    with taken() as paths:
        got = block_attention(**here, **there, path=path)
    assert paths == {"block_attention": path}
    assert got.dtype == torch.float32
    assert relative_error(got, wanted) < (1e-5 if kind == "softcap" else 2e-6)
    assert all(torch.equal(here[name], before[name]) for name in here)


def test_the_definition_is_softmax_attention_block_by_block(generator):
    inputs, how = problem(generator, 6, 2, 64, 9, (0, 4, 4, 15))
    got = block_attention_reference(**inputs, **how)
    for start, stop in ((0, 4), (4, 15)):
        size = stop - start
        key, value = (torch.cat([inputs[f"prefix_{name}"], inputs[name][:, start:stop]], dim=1)[None]
                      for name in ("key", "value"))
        seen = torch.ones(size, 9 + size, dtype=torch.bool).tril(9)
        wanted = torch.nn.functional.scaled_dot_product_attention(inputs["query"][None, :, start:stop], key, value,
                                                                  attn_mask=seen,
                                                                  enable_gqa=True)[0]
        torch.testing.assert_close(got[:, start:stop], wanted, atol=1e-6, rtol=1e-5)


def test_a_block_does_not_depend_on_the_others(generator, path, device, relative_error):
    """Alone, and among other blocks in another order."""
    inputs, how = problem(generator, 6, 2, 64, 10, (0, 20, 55, 80))
    here, there = moved(inputs, how, device)
    together = block_attention(**here, **there, path=path)
    order = torch.cat([torch.arange(55, 80), torch.arange(0, 20), torch.arange(20, 55)])
    shuffled = {name: tensor[:, order] if not name.startswith("prefix") else tensor for name, tensor in here.items()}
    again = block_attention(**shuffled, **(there | {"offsets": (0, 25, 45, 80)}), path=path)
    assert relative_error(again, together[:, order]) < 1e-6
    alone = {name: tensor[:, 20:55] if not name.startswith("prefix") else tensor for name, tensor in here.items()}
    assert relative_error(block_attention(**alone, **(there | {"offsets": (0, 35)}),
                                          path=path), together[:, 20:55]) < 1e-6


def test_uniform_attention_is_the_mean_of_what_is_seen(generator, path, device):
    inputs, how = problem(generator, 8, 2, 64, 4, (0, 3, 8))
    inputs["query"].zero_()
    here, there = moved(inputs, how, device)
    got = block_attention(**here, **there, path=path).cpu()
    seen = torch.cat([inputs["prefix_value"], inputs["value"][:, 3:6]], dim=1).mean(dim=1)
    torch.testing.assert_close(got[:, 5], seen.repeat_interleave(4, dim=0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("new", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cached", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(generator, path, device, relative_error, rounded, new, cached):
    inputs, how = problem(generator, 8, 2, 64, 30, (0, 20, 70))
    inputs = {name: rounded(tensor, cached if name.startswith("prefix") else new) for name, tensor in inputs.items()}
    here, there = moved(inputs, how, device)
    got = block_attention(**here, **there, path=path)
    assert got.dtype == inputs["query"].dtype
    assert relative_error(got, block_attention_reference(**exact(inputs), **how)) < 1e-2


def test_repeats_bit_for_bit_whatever_the_layout(generator, path, device):
    inputs, how = problem(generator, 6, 2, 64, 10, (0, 20, 55))
    here, there = moved(inputs, how, device)
    first = block_attention(**here, **there, path=path)
    here = {name: tensor.transpose(0, 1).contiguous().transpose(0, 1) for name, tensor in here.items()}
    assert torch.equal(block_attention(**here, **there, path=path), first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_of_a_long_prefill(on_cpu, generator, relative_error, kind):
    """Several tiles, each product large enough for oneDNN."""
    inputs, how = problem(generator, 3, 1, 64, 2000, (0, 300), kind)
    assert relative_error(block_attention(**inputs, **how,
                                          path="cpu"), block_attention_reference(**exact(inputs), **how)) < 1e-5


@given(seed=st.integers(0, 2**31), kv_heads=st.integers(1, 3), group=st.integers(1, 8), prefix=st.integers(0, 40),
       sizes=st.lists(st.integers(0, 30), max_size=6), width=st.sampled_from([2, 16, 80]), kind=st.sampled_from(KINDS))
@settings(max_examples=40)
def test_any_shape_on_the_cpu(on_cpu, relative_error, seed, kv_heads, group, prefix, sizes, width, kind):
    offsets = [0, *torch.tensor(sizes, dtype=torch.int64).cumsum(0).tolist()]
    inputs, how = problem(torch.Generator().manual_seed(seed), kv_heads * group, kv_heads, width, prefix, offsets, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST_ROWS", 3)
        patch.setattr(module, "_MOST_ROWS", 7)
        got = block_attention(**inputs, **how, path="cpu")
    assert relative_error(got, block_attention_reference(**exact(inputs), **how)) < 1e-5


def test_no_tokens_at_all(path, device):
    nothing, prefix = torch.empty(4, 0, 64, device=device), torch.ones(2, 5, 64, device=device)
    got = block_attention(nothing, nothing[:2], nothing[:2], prefix, prefix, offsets=[0], scale=1.0, path=path)
    assert got.shape == (4, 0, 64)


def test_inputs_that_do_not_fit_are_refused(generator):
    inputs, how = problem(generator, 6, 2, 64, 10, (0, 20, 55))
    for offsets in ((), (0, 20), (1, 55), (0, 30, 20, 55)):
        with pytest.raises(ValueError, match="offsets must ascend from 0 to the 55 tokens"):
            block_attention(**inputs, **(how | {"offsets": offsets}))
    with pytest.raises(ValueError, match="a window needs the positions of the 55 tokens and of the 10"):
        block_attention(**inputs, **(how | {"window": 9}))
    with pytest.raises(ValueError, match="do not fit together"):
        block_attention(**(inputs | {"value": inputs["value"][:, 1:]}), **how)
    with pytest.raises(ValueError, match="5 query heads"):
        block_attention(**(inputs | {"query": inputs["query"][:5]}), **how)
