"""What a language model is, read from its configuration alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..models import resolve
from .loading import configuration


@dataclass(frozen=True, slots=True)
class LanguageModelInfo:
    """``window`` is the longest prompt with its answer, in tokens; ``heads`` and ``kv_heads`` are those of one layer."""

    name: str
    window: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


@functools.lru_cache(maxsize=64)
def describe(name: str) -> LanguageModelInfo:
    """The shape of model ``name`` (``smollm2``, a GGUF file, a folder, a Hugging Face id); no weights are read.

    Raises ``ModelNotFound``, ``MissingDependency`` for an embedded model whose package is absent, ``UnsupportedModel`` for
    something that is not a language model.
    """
    config = configuration(resolve(name)).get_text_config(decoder=True)
    heads = config.num_attention_heads
    return LanguageModelInfo(
        name=name, window=config.max_position_embeddings, layers=config.num_hidden_layers, heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )
