"""What an encoder is. Encoders live in ``indexers``, and are found here through their table, by name or by the model
that they load."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..dag.scope import Scope
from ..errors import ConfigError
from ..parts import Part
from . import resolve

Vectors = NDArray[np.float32]


class OpenEncoder:
    """A loaded encoder: texts to vectors. ``name`` and ``dimension`` are its encoder's."""

    name: str
    dimension: int

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of ``texts`` are longer than the model's window, and so lose their end."""
        return 0

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]; a vector does not depend on what else is in ``texts`` (beyond float
        rounding)."""
        raise NotImplementedError(f"{type(self).__name__} has no `encode_passages`")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]."""
        return self.encode_passages(texts)


class Encoder(Part):
    """Texts to vectors. A text that names no encoder in the table names a model: ``minilm``, ``bge-small``, a folder, a
    Hugging Face id."""

    group = "regard.encoders"

    loads: ClassVar[frozenset[str]] = frozenset()
    """The kinds of models (``rag.models.resolve``) that a model's name alone means this encoder for."""

    @property
    def name(self) -> str:
        """What it is called in an index, for ours the model's name as the user gave it."""
        raise NotImplementedError(f"{type(self).__name__} has no `name`")

    @property
    def dimension(self) -> int:
        """Of the vectors; known without loading the model if that is on this machine."""
        raise NotImplementedError(f"{type(self).__name__} has no `dimension`")

    def description(self) -> dict[str, Any]:
        """Everything that decides a vector, as plain JSON, which an index keeps: model, weights hash, tokenizer,
        pooling, prompts, normalisation, dtype, dimension. Loads nothing heavy."""
        raise NotImplementedError(f"{type(self).__name__} has no `description`")

    def open(self, scope: Scope, /) -> OpenEncoder:
        """The loaded model, which the scope gives back."""
        raise NotImplementedError(f"{type(self).__name__} has no `open`")

    def identity(self) -> Any:
        return self.description()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Also ``minilm``, ``minilm:normalize=false``: a model's name, with settings of the encoder that loads it."""
        name, _, settings = text.partition(":")
        if not text or name.strip() in cls.table():
            return super().from_text(text)
        if not re.match(r"\w+=", settings):
            return cls.of_model(text)
        loaded_by = type(cls.of_model(name)).part_name()
        return super().from_text(f"{loaded_by}:model={json.dumps(name)},{settings}")

    @classmethod
    def of_model(cls, model: str) -> Self:
        """The encoder that loads ``model``, with its own settings. Raises what ``rag.models.resolve`` raises."""
        kind = resolve(model).kind
        for name in cls.table():
            found = cls.table()[name]
            if issubclass(found, cls) and kind in found.loads:
                made: Self = found(model)
                return made
        raise ConfigError(f"no encoder loads {model!r}, a model of kind {kind}", where=f"encoder {model!r:.80}",
                          hint="name a sentence-transformers or ONNX encoder, such as minilm or bge-small")
