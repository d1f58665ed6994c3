"""Accelerated linear layers: the same numbers as torch's own, and training untouched."""

import pytest
import torch
from regard.kernels.linear import accelerate
from torch import nn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (7, 64), (2, 33, 64), (0, 64)])
def test_an_accelerated_layer_computes_what_it_did(shape, bias):
    layer = nn.Linear(64, 96, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        plain = layer(x)
        wanted = layer.double()(x.double())
        layer.float()
        accelerate(nn.Sequential(layer))
        got = layer(x)
    assert got.shape == plain.shape
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


def test_the_same_input_gives_the_same_bits():
    layer = nn.Linear(576, 1536)
    accelerate(layer)
    x = torch.randn(50, 576)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x))


def test_gradients_and_other_dtypes_go_torchs_way():
    layer = nn.Linear(8, 4)
    accelerate(layer)
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert layer.bfloat16()(torch.randn(3, 8).bfloat16()).dtype == torch.bfloat16


def test_a_layer_of_another_class_keeps_its_own_forward():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer = Doubled(8, 4)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        before = layer(x)
        accelerate(layer)
        assert torch.equal(layer(x), before)
