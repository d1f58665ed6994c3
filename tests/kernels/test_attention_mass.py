"""attention_mass and attend against their definition in float64: shapes, tiles, signs, windows, soft caps, absolute
scale."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.kernels import products, scores
from regard.kernels.attention_mass import Reach, attend, attend_reference, attention_mass, attention_mass_reference
from regard.kernels.dispatch import taken

SHAPES = [
    # heads, KV heads, rows, columns, own keys, width
    (9, 3, 30, 300, 30, 64), (8, 8, 7, 33, 7, 96), (8, 1, 1, 257, 1, 128), (4, 2, 5, 1, 9, 64), (2, 1, 40, 16, 40, 256),
    (16, 2, 3, 130, 3, 64), (6, 1, 5, 0, 5, 64), (6, 3, 4, 60, 0, 96), (5, 1, 4, 70, 4, 64), (7, 1, 2, 70, 2, 128),
]
KINDS = ["plain", "softcap", "window"]


def problem(generator, heads, kv_heads, rows, columns, own, width, kind="plain", spread=1.0):
    """Random inputs by name: queries, keys and values, signed weights, each own key visible to some rows and one of
    them to each."""

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    visible = torch.rand(rows, own, generator=generator) < 0.6
    if own:
        visible[torch.arange(rows), torch.arange(rows) % own] = True
    inputs = {"query": spread * random(heads, rows, width), "key": random(kv_heads, columns, width),
              "value": random(kv_heads, columns, width), "own_key": random(kv_heads, own, width),
              "own_value": random(kv_heads, own, width), "row_weights": random(heads, rows)}
    reach = None
    if kind == "window":
        strided = torch.arange(2 * columns)[::2] // 2  # as a column of a table is
        reach = Reach(25, columns + torch.arange(rows), strided, columns + torch.arange(own).clamp(max=rows - 1))
    return inputs, {"visible": visible, "scale": width**-0.5, "softcap": 3.0 if kind == "softcap" else None,
                    "reach": reach}


def moved(inputs, how, device):
    """``inputs`` and ``how`` on ``device``."""
    reach = how["reach"]
    if reach is not None:
        reach = Reach(reach.window, reach.rows.to(device), reach.context.to(device), reach.own.to(device))
    return {name: tensor.to(device)
            for name, tensor in inputs.items()}, how | {"visible": how["visible"].to(device), "reach": reach}


def exact(inputs):
    return {name: tensor.double() for name, tensor in inputs.items()}


def without_values(inputs):
    return {name: tensor for name, tensor in inputs.items() if not name.endswith("value")}


def terms_of(inputs, how):
    """What the mass adds up: with the weights' absolute values, so that nothing cancels."""
    unsigned = without_values(inputs) | {"row_weights": inputs["row_weights"].abs()}
    return attention_mass_reference(**exact(unsigned), **how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(generator, path, device, relative_error, shape, kind):
    inputs, how = problem(generator, *shape, kind)
    wanted_output, wanted_mass = attend_reference(**exact(inputs), **how)
    assert relative_error(attention_mass_reference(**exact(without_values(inputs)), **how), wanted_mass) < 1e-14
    here, there = moved(inputs, how, device)
    with taken() as paths:
        output, mass = attend(**here, **there, path=path)
        alone = attention_mass(**without_values(here), **there, path=path)
    assert paths == {"attention_mass": path}
    assert (output.dtype, mass.dtype, alone.dtype) == (torch.float32,) * 3
    bound = 2e-5 if kind == "softcap" else 4e-6  # the cap's rounding is absolute: of the order of the cap
    assert relative_error(output, wanted_output) < bound
    assert relative_error(mass, wanted_mass, terms_of(inputs, how)) < bound
    assert relative_error(alone, wanted_mass, terms_of(inputs, how)) < bound


def test_the_definition_is_softmax_attention(generator):
    """The reference itself, against torch's attention; one-hot values give the attention matrix."""
    inputs, how = problem(generator, 4, 2, 6, 20, 6, 26)
    key = torch.cat([inputs["key"], inputs["own_key"]], dim=1)
    seen = torch.cat([torch.ones(6, 20, dtype=torch.bool), how["visible"]], dim=1)

    def attention(value):
        return torch.nn.functional.scaled_dot_product_attention(inputs["query"][None], key[None], value, attn_mask=seen,
                                                                enable_gqa=True)[0]

    output, mass = attend_reference(**inputs, **how)
    matrix = attention(torch.eye(26).expand(1, 2, 26, 26))
    torch.testing.assert_close(mass, torch.einsum("hr,hrt->t", inputs["row_weights"], matrix[:, :, :20]), atol=1e-6,
                               rtol=1e-5)
    value = torch.cat([inputs["value"], inputs["own_value"]], dim=1)
    torch.testing.assert_close(output, attention(value[None]), atol=1e-6, rtol=1e-5)


def test_the_absolute_scale_of_uniform_attention(generator, path, device):
    """Equal scores: every key that a row sees gets the same share, whatever the number of heads that share it."""
    inputs, how = problem(generator, 8, 2, 6, 50, 6, 64)
    inputs["query"].zero_()
    shares = inputs["row_weights"] / (50 + how["visible"].sum(dim=1))
    here, there = moved(inputs, how, device)
    mass = attention_mass(**without_values(here), **there, path=path)
    torch.testing.assert_close(mass.cpu(), shares.sum().expand(50), atol=1e-6, rtol=1e-5)


def test_a_window_hides_what_is_beyond_it(generator, path, device):
    inputs, how = problem(generator, 4, 2, 3, 60, 3, 64, "window")
    here, there = moved(inputs, how, device)
    mass = attention_mass(**without_values(here), **there, path=path).cpu()
    reached = 60 - 25 + 1  # of row 0; the others reach less far back
    assert mass[:reached].abs().max() == 0
    assert mass[reached:].abs().min() > 0


def test_a_window_that_covers_everything_changes_nothing(generator, path, device, relative_error):
    inputs, how = problem(generator, 4, 2, 3, 60, 3, 64, "window")
    wide = Reach(1000, how["reach"].rows, how["reach"].context, how["reach"].own)
    results = []
    for reach in (None, wide):
        here, there = moved(inputs, how | {"reach": reach}, device)
        results.append(attention_mass(**without_values(here), **there, path=path))
    assert relative_error(*results) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_neither_overflow_nor_vanish(generator, path, device, relative_error, kind):
    inputs, how = problem(generator, 4, 2, 10, 150, 10, 64, kind, spread=100.0)
    _, wanted = attend_reference(**exact(inputs), **how)
    here, there = moved(inputs, how, device)
    assert relative_error(attend(**here, **there, path=path)[1], wanted) < 1e-4


@pytest.mark.parametrize("cached", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("new", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_inputs_are_summed_in_float32(generator, path, device, relative_error, rounded, new, cached):
    """A cache's dtype may differ from the rows'."""
    inputs, how = problem(generator, 8, 2, 12, 150, 12, 64)
    inputs = {name: rounded(tensor,
                            torch.float32 if name == "row_weights" else cached if name in ("key", "value") else new)
              for name, tensor in inputs.items()}
    wanted_output, wanted_mass = attend_reference(**exact(inputs), **how)
    here, there = moved(inputs, how, device)
    output, mass = attend(**here, **there, path=path)
    assert output.dtype == inputs["query"].dtype
    assert relative_error(mass, wanted_mass, terms_of(inputs, how)) < 4e-6
    assert relative_error(output, wanted_output) < (1e-2 if new != torch.float32 else 5e-6)


def test_a_row_without_weight_adds_nothing(generator, path, device):
    """Not even where its query is out of range, and the inputs stay as they were."""
    inputs, how = problem(generator, 4, 2, 6, 50, 6, 64)
    inputs["row_weights"][:, 2:] = 0
    inputs["row_weights"][1] = 0
    here, there = moved(without_values(inputs), how, device)
    before = {name: tensor.clone() for name, tensor in here.items()}
    some = attention_mass(**here, **there, path=path)
    assert all(torch.equal(here[name], before[name]) for name in here)
    here["query"][:, 2:] = 7.0
    here["query"][1] = 3.0
    assert torch.equal(attention_mass(**here, **there, path=path), some)
    here["row_weights"].zero_()
    assert attention_mass(**here, **there, path=path).abs().max() == 0


def test_rows_of_one_segment_do_not_see_the_other(generator, path, device):
    """Two suffixes in one call give the sum of two calls."""
    inputs, how = problem(generator, 6, 3, 9, 70, 9, 64)
    visible = torch.ones(9, 9, dtype=torch.bool).tril()
    visible[4:, :4] = False
    here, there = moved(without_values(inputs), how | {"visible": visible}, device)
    together = attention_mass(**here, **there, path=path)
    apart = torch.zeros_like(together)
    for rows in (slice(0, 4), slice(4, 9)):
        part = {"query": here["query"][:, rows], "key": here["key"], "own_key": here["own_key"][:, rows],
                "row_weights": here["row_weights"][:, rows]}
        apart += attention_mass(**part, **(there | {"visible": there["visible"][rows, rows]}), path=path)
    torch.testing.assert_close(together, apart, atol=2e-6, rtol=1e-5)


def test_repeats_bit_for_bit(generator, path, device):
    inputs, how = problem(generator, 9, 3, 20, 300, 20, 64)
    here, there = moved(inputs, how, device)
    first = attend(**here, **there, path=path)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(attend(**here, **there, path=path), first, strict=True))


def test_any_layout_of_the_inputs(generator, path, device, relative_error):
    """Views as a model's attention gives them: heads and tokens transposed, or the last dimension not dense."""
    inputs, how = problem(generator, 4, 2, 6, 50, 6, 64)
    _, wanted = attend_reference(**exact(inputs), **how)
    inputs["query"] = inputs["query"].transpose(0, 1).contiguous().transpose(0, 1)
    inputs["key"] = inputs["key"].mT.contiguous().mT
    inputs["value"] = inputs["value"].transpose(0, 1).contiguous().transpose(0, 1)
    here, there = moved(inputs, how, device)
    assert relative_error(attend(**here, **there, path=path)[1], wanted) < 4e-6


@given(seed=st.integers(0, 2**31), kv_heads=st.integers(1, 3), group=st.integers(1, 8), rows=st.integers(1, 20),
       columns=st.integers(0, 80),
       own=st.integers(0, 20), width=st.sampled_from([2, 16, 64, 80]), kind=st.sampled_from(KINDS),
       least=st.integers(1, 5))
@settings(max_examples=40)
def test_any_shape_on_the_cpu(on_cpu, relative_error, seed, kv_heads, group, rows, columns, own, width, kind, least):
    if columns + own == 0:
        own = 1
    inputs, how = problem(torch.Generator().manual_seed(seed), kv_heads * group, kv_heads, rows, columns, own, width,
                          kind)
    wanted_output, wanted_mass = attend_reference(**exact(inputs), **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "SCORES_AT_ONCE", 100)  # so that rows come in several tiles
        patch.setattr(scores, "LEAST_ROWS", least)
        output, mass = attend(**inputs, **how, path="cpu")
    assert relative_error(output, wanted_output) < 1e-5
    assert torch.allclose(mass.double(), wanted_mass, atol=1e-5, rtol=1e-4)


def test_no_intermediate_holds_rows_by_keys(on_cpu, generator):
    """Every tensor that torch makes on the way is watched: the largest is one tile of scores."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Watch.largest = max(Watch.largest, out.numel())
            return out

    inputs, how = problem(generator, 8, 2, 64, 20_000, 64, 16)
    with Watch():
        attend(**inputs, **how, path="cpu")
    assert inputs["key"].numel() < scores.SCORES_AT_ONCE  # so that the bound below is about scores
    assert Watch.largest <= scores.SCORES_AT_ONCE < 8 * 64 * 20_064 / 9


@pytest.mark.parametrize("one_library", [True, False])
def test_large_products_in_either_of_torchs_libraries(on_cpu, monkeypatch, generator, relative_error, one_library):
    """With oneDNN where this machine has it, and without."""
    if one_library:
        monkeypatch.setattr(products, "has_onednn", lambda: False)
    left, right = torch.randn(1, 100, 64, generator=generator), torch.randn(1, 3000, 64, generator=generator)
    assert relative_error(products.product(left, right.mT), left.double() @ right.mT.double()) < 1e-6
    weights = torch.rand(1, 100, 3000, generator=generator)
    assert relative_error(products.product(weights, right), weights.double() @ right.double()) < 2e-6


def test_shapes_that_do_not_fit_are_refused(generator):
    inputs, how = problem(generator, 4, 2, 6, 50, 6, 64)
    inputs = without_values(inputs)
    wrong = {"query": torch.zeros(5, 6, 64), "own_key": torch.zeros(2, 6, 32)}
    for name, tensor in wrong.items():
        with pytest.raises(ValueError, match=r"5 query heads|do not fit"):
            attention_mass(**(inputs | {name: tensor}), **how)
    with pytest.raises(ValueError, match="visible is"):
        attention_mass(**inputs, **(how | {"visible": torch.ones(6, 5, dtype=torch.bool)}))
    with pytest.raises(ValueError, match=r"reach has positions of 6 rows, 49 context"):
        attention_mass(**inputs, **(how | {"reach": Reach(9, torch.arange(6), torch.arange(49), torch.arange(6))}))
    with pytest.raises(ValueError, match="no query rows"):
        attention_mass(**(inputs | {"query": torch.zeros(4, 0, 64)}), **how)
