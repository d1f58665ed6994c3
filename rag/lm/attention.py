"""Look into a transformers model's attention while it runs, without ever asking it for its attention matrices.

``ATTENTION`` is the name of an attention function that is torch's scaled dot product attention, and besides shows each layer's
queries and keys to the *probe* that rides along as a keyword argument of the model's forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

ATTENTION = "regard"

_CHANGES_THE_SOFTMAX = ("softcap", "s_aux", "position_bias")
"""Keyword arguments with which a model's attention is no plain softmax of scaled products."""


class Probe(Protocol):
    @property
    def last_layer(self) -> int:
        """The forward pass ends at this layer, with :class:`LastLayer`."""

    def see(self, layer: int, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        """``query`` [heads, rows, d] and ``key`` [KV heads, keys, d] of ``layer``, rotated to their positions."""


class LastLayer(Exception):
    """Not an error: the probe has seen all that it needs, and the layers above need not run."""


@functools.cache
def register() -> None:
    """Make ``ATTENTION`` known to transformers.

    The mask is registered under the same name: without that a function gets no causal mask, and rows attend to their future.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
                *, probe: Probe | None = None, scaling: float | None = None, **kwargs: Any) -> Any:
        if probe is not None:
            _expect_plain_softmax(module, key.shape[2], kwargs)
            probe.see(module.layer_idx, query[0], key[0], query.shape[-1] ** -0.5 if scaling is None else scaling)
            if module.layer_idx == probe.last_layer:
                raise LastLayer
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    AttentionInterface.register(ATTENTION, forward)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _expect_plain_softmax(module: Any, keys: int, kwargs: Mapping[str, Any]) -> None:
    found = [name for name in _CHANGES_THE_SOFTMAX if kwargs.get(name) is not None]
    if found:
        raise UnsupportedModel(f"attention mass is not computed for attention with {', '.join(found)}", where=type(module).__name__,
                               hint="use a model with plain softmax attention: Llama, Qwen, Mistral, ...")
    window = kwargs.get("sliding_window")
    if window and keys > window:
        raise UnsupportedModel(f"a layer's sliding window of {window} tokens is shorter than the prompt of {keys}",
                               where=type(module).__name__, hint="use a model without a sliding window, or a shorter prompt")


@dataclass(slots=True)
class StopAt:
    """Sees nothing; ends the forward pass once ``last_layer``'s keys are in the cache."""

    last_layer: int

    def see(self, layer: int, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        """Nothing to see."""


@dataclass(slots=True)
class MassProbe:
    """Adds up the attention mass of the suffixes' rows on the ``columns`` tokens of the context.

    ``row_weights`` float32 [rows], signed; ``visible`` bool [rows, rows], which suffix token sees which; ``heads`` the chosen
    heads of each layer. The sum is in ``mass``, float32 [columns].
    """

    columns: int
    row_weights: torch.Tensor
    visible: torch.Tensor
    heads: Mapping[int, Sequence[int]]
    mass: torch.Tensor
    layers_seen: int = 0

    @property
    def last_layer(self) -> int:
        return max(self.heads)

    def see(self, layer: int, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        chosen = self.heads.get(layer)
        if not chosen:
            return
        from ...kernels.attention_mass import attention_mass

        weights = self.row_weights.new_zeros(query.shape[0], len(self.row_weights))
        weights[list(chosen)] = self.row_weights
        self.mass += attention_mass(query, key, weights, columns=self.columns, visible=self.visible, scale=scale)
        self.layers_seen += 1
