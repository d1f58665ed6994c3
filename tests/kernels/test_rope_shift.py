"""rope_shift against rotary embedding itself: a shifted key is the key of the other position."""

import pytest
import torch
from regard.kernels.dispatch import taken
from regard.kernels.rope_shift import rope_shift, rope_shift_reference

WIDTHS = [(64, 64), (96, 96), (128, 128), (256, 256), (64, 16), (80, 48), (6, 2)]  # width, rotated


def frequencies(rotated: int, base: float = 10_000.0) -> torch.Tensor:
    return base ** -(torch.arange(0, rotated, 2) / rotated)


def rotate(key: torch.Tensor, positions: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in float64, as transformers' Llama writes it (cos and sin doubled, ``rotate_half``)."""
    rotated = 2 * len(inverse)
    angle = positions.double()[:, None] * inverse.double().repeat(2)
    turning, rest = key.double()[..., :rotated], key.double()[..., rotated:]
    half = torch.cat([-turning[..., rotated // 2:], turning[..., :rotated // 2]], dim=-1)
    return torch.cat([turning * angle.cos() + half * angle.sin(), rest], dim=-1)


@pytest.mark.parametrize(("width", "rotated"), WIDTHS)
def test_moves_a_key_to_another_position(generator, path, device, relative_error, width, rotated):
    """Positions up to 128k; gathered in any order, with repeats; the inputs stay as they were."""
    inverse = frequencies(rotated)
    plain = torch.randn(3, 40, width, generator=generator)
    old = torch.randint(0, 131_072, (40,), generator=generator)
    index = torch.randint(0, 40, (67,), generator=generator)
    new = torch.randint(0, 131_072, (67,), generator=generator)
    key = rotate(plain, old, inverse).float().to(device)
    before = key.clone()
    with taken() as paths:
        got = rope_shift(key, index.to(device), (new - old[index]).to(device), inverse.to(device), path=path)
    assert paths == {"rope_shift": path}
    assert relative_error(got, rotate(plain[:, index], new, inverse)) < 3e-7
    assert torch.equal(key, before)
    if rotated < width:
        assert torch.equal(got[..., rotated:], key[:, index.to(device), rotated:])


def test_no_shift_copies_exactly_and_shifts_add_up(generator, path, device, relative_error):
    key = torch.randn(2, 30, 64, generator=generator).to(device)
    index, inverse = torch.arange(30, device=device), frequencies(64).to(device)
    assert torch.equal(rope_shift(key, index, torch.zeros_like(index), inverse, path=path), key)
    there = rope_shift(key, index, 700 + index, inverse, path=path)
    assert relative_error(rope_shift(there, index, -700 - index, inverse, path=path), key) < 3e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(generator, path, device, rounded, dtype):
    key = rounded(torch.randn(2, 30, 64, generator=generator), dtype).to(device)
    index, shift = torch.arange(30, device=device), torch.arange(30, device=device) * 1000
    got = rope_shift(key, index, shift, frequencies(64).to(device), path=path)
    assert got.dtype == key.dtype
    wanted = rope_shift_reference(key.double().cpu(), index.cpu(), shift.cpu(), frequencies(64))
    step = torch.finfo(dtype).eps * wanted.abs().clamp(min=2.0**-10)
    assert ((got.cpu().double() - wanted).abs() <= 0.51 * step + 1e-6).all()


def test_a_key_of_any_layout_and_no_tokens(generator, path, device, relative_error):
    key = torch.randn(20, 2, 64, generator=generator).to(device).transpose(0, 1)
    index, inverse = torch.arange(0, 20, 3, device=device), frequencies(64).to(device)
    wanted = rope_shift_reference(key.cpu().double(), index.cpu(), 5 + index.cpu(), inverse.cpu())
    assert relative_error(rope_shift(key, index, 5 + index, inverse, path=path), wanted) < 3e-7
    assert rope_shift(key, index[:0], index[:0], inverse, path=path).shape == (2, 0, 64)


def test_inputs_that_do_not_fit_are_refused():
    key, index = torch.zeros(2, 30, 64), torch.arange(5)
    with pytest.raises(ValueError, match="same length"):
        rope_shift(key, index, index[1:], frequencies(64))
    with pytest.raises(ValueError, match="too many for keys of 64"):
        rope_shift(key, index, index, frequencies(66))
