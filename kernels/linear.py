"""Linear layers on the CPU by the faster of torch's two libraries: the arithmetic that encoders and language models
spend their time on."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


def accelerate(model: nn.Module) -> None:
    """Send the float32 linear layers of ``model`` to oneDNN wherever that is faster; elsewhere, and for training,
    nothing changes.

    torch sends them to MKL, which on processors not made by Intel leaves AVX-512 unused: 103 GFLOP/s on a Zen 5 core,
    where oneDNN reaches
    230. Results differ from MKL's in the last bits; in both the same inputs give the same bits.
    """
    if not has_onednn():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]  # this layer's alone


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    floats = layer.weight.dtype == x.dtype == torch.float32
    plain = layer.weight.device.type == "cpu" and floats and x.numel() > 0 and x.dim() > 1
    if plain and not torch.is_grad_enabled():
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
        return output
    return nn.functional.linear(x, layer.weight, layer.bias)


@functools.cache
def has_onednn() -> bool:
    """Whether torch has oneDNN's linear layer, the operator that its own compiler emits; only measured with AVX-512."""
    return (torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(torch.backends.mkldnn.enabled)
            and hasattr(torch.ops.mkldnn, "_linear_pointwise"))
