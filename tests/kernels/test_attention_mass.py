"""attention_mass against its definition in float64: shapes, tiles, signs, scale."""

import pytest
import torch
from regard.kernels.attention_mass import SCORES_AT_ONCE, attention_mass, attention_mass_reference


def inputs(heads: int, kv_heads: int, rows: int, columns: int, width: int, seed: int = 0, spread: float = 1.0):
    random = torch.Generator().manual_seed(seed)
    query = spread * torch.randn(heads, rows, width, generator=random)
    key = torch.randn(kv_heads, columns + rows, width, generator=random)
    row_weights = torch.randn(heads, rows, generator=random)
    visible = torch.ones(rows, rows, dtype=torch.bool).tril()
    return query, key, row_weights, {"columns": columns, "visible": visible, "scale": width**-0.5}


def in_float64(query, key, row_weights, settings):
    return attention_mass_reference(query.double(), key.double(), row_weights.double(), **settings)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.isfinite().all()
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rows", "columns", "width"),
    [(9, 3, 30, 500, 64), (8, 8, 7, 33, 96), (8, 1, 1, 257, 128), (4, 2, 5, 1, 64), (2, 1, 64, 16, 256), (16, 2, 3, 1000, 64)],
)
@pytest.mark.parametrize("tile", [1, 7, 64, None])
def test_equals_the_definition(heads, kv_heads, rows, columns, width, tile):
    query, key, row_weights, settings = inputs(heads, kv_heads, rows, columns, width, seed=heads + columns)
    got = attention_mass(query, key, row_weights, **settings, tile=tile)
    assert got.dtype == torch.float32
    assert got.shape == (columns,)
    assert relative_error(got, in_float64(query, key, row_weights, settings)) < 2e-6


def test_the_definition_is_softmax_attention():
    """The reference itself, against torch's attention with one-hot values, which returns the attention matrix."""
    query, key, row_weights, settings = inputs(4, 2, 6, 20, 16)
    seen = torch.cat([torch.ones(6, 20, dtype=torch.bool), settings["visible"]], dim=1)
    matrix = torch.nn.functional.scaled_dot_product_attention(
        query[None], key[None], torch.eye(26).expand(1, 2, 26, 26), attn_mask=seen, enable_gqa=True)[0]
    wanted = torch.einsum("hr,hrt->t", row_weights, matrix[:, :, :20])
    torch.testing.assert_close(attention_mass_reference(query, key, row_weights, **settings), wanted, atol=1e-6, rtol=1e-5)


def test_large_scores_neither_overflow_nor_vanish():
    query, key, row_weights, settings = inputs(4, 2, 10, 300, 64, spread=100.0)
    assert relative_error(attention_mass(query, key, row_weights, **settings), in_float64(query, key, row_weights, settings)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    query, key, row_weights, settings = inputs(8, 2, 12, 400, 64)
    query, key = query.to(dtype), key.to(dtype)
    assert relative_error(attention_mass(query, key, row_weights, **settings), in_float64(query, key, row_weights, settings)) < 2e-6


def test_a_row_without_weight_adds_nothing():
    query, key, row_weights, settings = inputs(4, 2, 6, 50, 32)
    row_weights[:, 2:] = 0
    row_weights[1] = 0
    some = attention_mass(query, key, row_weights, **settings)
    query[:, 2:] = 7.0
    query[1] = 3.0
    assert torch.equal(attention_mass(query, key, row_weights, **settings), some)


def test_rows_of_one_segment_do_not_see_the_other():
    """Two suffixes in one call give the sum of two calls."""
    query, key, row_weights, settings = inputs(6, 3, 9, 70, 32)
    visible = settings["visible"].clone()
    visible[4:, :4] = False
    together = attention_mass(query, key, row_weights, columns=70, visible=visible, scale=settings["scale"])
    apart = torch.zeros(70)
    for rows in (slice(0, 4), slice(4, 9)):
        own = torch.cat([key[:, :70], key[:, 70:][:, rows]], dim=1)
        apart += attention_mass(query[:, rows], own, row_weights[:, rows], columns=70, visible=visible[rows, rows],
                                scale=settings["scale"])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_repeats_bit_for_bit():
    query, key, row_weights, settings = inputs(9, 3, 60, 2000, 64)
    first = attention_mass(query, key, row_weights, **settings)
    assert all(torch.equal(attention_mass(query, key, row_weights, **settings), first) for _ in range(3))


def test_no_intermediate_holds_rows_by_keys(monkeypatch):
    """Every tensor that torch makes on the way is watched: the largest is one tile of scores."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Watch.largest = max(Watch.largest, out.numel())
            return out

    query, key, row_weights, settings = inputs(8, 2, 64, 20_000, 16)
    with Watch():
        attention_mass(query, key, row_weights, **settings)
    matrix = 8 * 64 * 20_064
    assert key.numel() < SCORES_AT_ONCE  # so that the bound below is about scores
    assert Watch.largest <= SCORES_AT_ONCE < matrix / 9
