"""Look into a transformers model's attention while it runs, without ever asking it for its attention matrices.

A model loaded for it (:func:`let_in`) runs on an attention function of ours. While it generates, that is torch's scaled
dot product attention. A forward pass within :func:`looked_at_by` hands each layer's queries, keys and values to that
:class:`Pass` instead, which says what the attention's output is: it can keep keys and values, hide tokens from each
other, add up attention, and end the pass early by :class:`LastLayer`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

PLAIN = "regard"
SOFTCAPPED = "regard_softcapped"
"""Names of attention functions: for generation, torch's fast attention has no soft cap (Gemma 2)."""

_FAST = "sdpa"
EAGER = "eager"
_CHANGES_THE_SOFTMAX = ("s_aux", "position_bias", "cu_seq_lens_q")
"""Keyword arguments with which a model's attention is not the softmax of (soft-capped) scaled products."""


class Pass(Protocol):
    """What a forward pass does in place of attention. ``length``: of the prompt that it is part of, in positions."""

    @property
    def length(self) -> int: ...

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        """``query`` [heads, rows, d], ``key`` and ``value`` [KV heads, rows, d], rotated to their positions: [heads,
        rows, d]."""


@dataclass(frozen=True, slots=True)
class How:
    """A layer's own: the ``scale`` of its products, its soft cap and its sliding window in tokens, None where it has
    none."""

    scale: float
    softcap: float | None
    window: int | None


_looking: ContextVar[Pass | None] = ContextVar("looking", default=None)  # not an argument: some layers pass none on


@contextmanager
def looked_at_by(looking: Pass) -> Iterator[None]:
    """Forward passes inside, in this thread, show ``looking`` their attention."""
    token = _looking.set(looking)
    try:
        yield
    finally:
        _looking.reset(token)


class LastLayer(Exception):
    """Not an error: the pass has seen all that it needs, and the layers above need not run."""


def let_in(model: Any) -> str:
    """Put ``model`` on our attention function; or say why not, when it has a reason to compute its attention
    otherwise."""
    softcapped = getattr(model.config, "attn_logit_softcapping", None) is not None and model._supports_attention_backend
    if not softcapped and model.config._attn_implementation != _FAST:
        return "it does not run on torch's scaled dot product attention"
    register()
    model.set_attn_implementation(SOFTCAPPED if softcapped else PLAIN)
    return ""


@functools.cache
def register() -> None:
    """Make our attention functions known to transformers.

    Their masks are registered under the same names: without that a function gets no causal mask, and rows attend to
    their future.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import eager_mask, sdpa_mask

    AttentionInterface.register(PLAIN, functools.partial(_forward, sdpa_attention_forward))
    AttentionMaskInterface.register(PLAIN, sdpa_mask)
    AttentionInterface.register(SOFTCAPPED, functools.partial(_forward, _softcapped))
    AttentionMaskInterface.register(SOFTCAPPED, eager_mask)


def _forward(
    otherwise: Any, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *, scaling: float | None = None, **kwargs: Any,
) -> Any:
    looking = _looking.get()
    if looking is None:
        return otherwise(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    _expect_softmax(module, kwargs)
    how = How(query.shape[-1] ** -0.5 if scaling is None else scaling, kwargs.get("softcap"),
              kwargs.get("sliding_window"))
    output = looking.attend(module.layer_idx, query[0], key[0], value[0], how)
    return output.transpose(0, 1)[None].contiguous(), None  # some models take a view of it



def _softcapped(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scaling: float,
    softcap: float,
    **kwargs: Any,
) -> Any:
    """Generation's attention with a soft cap, as transformers' eager one computes it; ``mask`` is added to the
    scores."""
    group = query.shape[1] // key.shape[1]
    scores = scaling * query @ key.repeat_interleave(group, dim=1).mT
    scores = (softcap * (scores / softcap).tanh() + mask[..., :key.shape[2]]).float().softmax(dim=-1)
    return (scores.to(value.dtype) @ value.repeat_interleave(group, dim=1)).transpose(1, 2), None


def _expect_softmax(module: Any, kwargs: dict[str, Any]) -> None:
    found = [name for name in _CHANGES_THE_SOFTMAX if kwargs.get(name) is not None]
    if found:
        raise UnsupportedModel(f"attention mass is not computed for attention with {', '.join(found)}",
                               where=type(module).__name__,
                               hint="use a model with plain softmax attention: Llama, Qwen, Mistral, Gemma, ...")
