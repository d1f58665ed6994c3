"""What a language model is, read from its configuration alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModel
from ..models import resolve
from .loading import configuration


@dataclass(frozen=True, slots=True)
class LanguageModelInfo:
    """``window`` is the longest prompt with its answer, in tokens; ``heads`` and ``kv_heads`` are those of one layer.

    ``dtype`` is the checkpoint's (``"bfloat16"``); float32 for a GGUF file, which is converted to it.
    """

    name: str
    window: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str


@functools.lru_cache(maxsize=64)
def describe(name: str) -> LanguageModelInfo:
    """The shape of model ``name`` (``smollm2``, a GGUF file, a folder, a Hugging Face id); no weights are read.

    Raises ``ModelNotFound``, ``MissingDependency`` for an embedded model whose package is absent, ``UnsupportedModel``
    for something that is not a language model, and for one that has no window or no attention heads, or layers of
    different shapes.
    """
    files = resolve(name)
    config = configuration(files).get_text_config(decoder=True)
    try:
        heads = config.num_attention_heads
        return LanguageModelInfo(
            name=name, window=config.max_position_embeddings, layers=config.num_hidden_layers, heads=heads,
            kv_heads=_kv_heads(config) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype="float32" if files.kind == "gguf" else str(config.dtype or "float32").removeprefix("torch."),
        )
    # transformers' for a setting that is not there, or another in each layer
    except (AttributeError, RuntimeError) as error:
        raise UnsupportedModel(f"the shape of {name!r}, of the family {config.model_type}, is not plain in its "
                               f"configuration: "
                               f"{str(error).partition('. ')[0]}", where=files.path,
                               hint="use a model that has a window, and attention heads that are alike in all "
                                    "layers") from error


def _kv_heads(config: Any) -> int | None:
    """None where the configuration names no other number than that of the heads."""
    if getattr(config, "multi_query", False):  # GPT BigCode's way to say it
        return 1
    found: int | None = getattr(config, "num_key_value_heads", None)
    return found
