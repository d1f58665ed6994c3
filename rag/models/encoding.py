"""What an encoder is, and how a stage gets one by name.

Encoders live in ``indexers``; retrievers, readers and the index job find them here by model name, through the entry-point
group ``regard.encoders`` (model kind -> encoder class), so nothing in this folder imports them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..tables import table
from . import resolve

Vectors = NDArray[np.float32]


@runtime_checkable
class Encoder(Protocol):
    """Texts to vectors. ``open`` loads the model (shared by name), ``close`` gives it back; ``fingerprint`` loads nothing heavy."""

    @property
    def name(self) -> str:
        """The model's name as the user gave it."""

    @property
    def dimension(self) -> int:
        """Of the vectors; known before ``open`` for a model on this machine."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides a vector: model, weights hash, tokenizer, pooling, prompts, normalisation, dtype, dimension."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of ``texts`` are longer than the model's window, and so lose their end. Needs ``open``."""

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]; a vector does not depend on what else is in ``texts`` (beyond float rounding)."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]."""


def encoder(name: str, **settings: Any) -> Encoder:
    """The encoder for model ``name`` (``minilm``, ``bge-small``, a folder, a Hugging Face id), not opened.

    ``settings`` go to its constructor (``normalize``, ``dimension``, ``query_prompt``, ``passage_prompt``, ``device``, ...).
    """
    made: Encoder = table("regard.encoders")[resolve(name).kind](name, **settings)
    return made


_open: dict[int, tuple[Encoder, int]] = {}
_lock = threading.Lock()


def open_encoder(one: Encoder) -> None:
    """Open an encoder that others may hold too (a job and two stages may have been handed the same object)."""
    with _lock:
        _, users = _open.get(id(one), (one, 0))
        if not users:
            one.open()
        _open[id(one)] = one, users + 1


def close_encoder(one: Encoder) -> None:
    """Give back what :func:`open_encoder` opened; the last holder closes it."""
    with _lock:
        _, users = _open.pop(id(one), (one, 0))
        if users > 1:
            _open[id(one)] = one, users - 1
        elif users:
            one.close()
