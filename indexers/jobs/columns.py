"""Dense encoders of an index: finding them by fingerprint, and adding one to passages that are already stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...rag.errors import ConfigError, DimensionMismatch, StageError
from ...rag.models.encoding import Encoder, OpenEncoder, Vectors
from ...rag.parts import part
from ...rag.progress import Advance, progress_bar
from ..encoders.stored import column_name, require_same, stored_encoder
from ..stores.locks import storage_errors
from ..stores.protocols import Pending, Store, Writer
from .pace import Pace

_BLOCK = 2048


def index_encoders(wanted: str | Encoder | None, existing: Store | None, default: str) -> dict[str, Encoder]:
    """The encoders that a job must run, by column name: all that the index holds, and the one that is asked for."""
    stored = existing.encoders if existing is not None else {}
    chosen = (None if existing is not None else default) if wanted == "auto" else wanted
    if chosen is not None and (not chosen or not isinstance(chosen, str | Encoder)):
        raise ConfigError(f"{chosen!r:.80} is no encoder", where="encoder",
                          hint="give a model's name or an Encoder")
    asked = None if chosen is None else part(Encoder, chosen)
    replaced = None if asked is None else column_name(asked.name)
    encoders = {name: stored_encoder(fingerprint) for name, fingerprint in stored.items() if name != replaced}
    if asked is not None:
        encoders[column_name(asked.name)] = asked
    return encoders


def encode_existing(
    writer: Writer, name: str, fingerprint: dict[str, Any], one: OpenEncoder, *, progress: bool | None,
    commit_seconds: float,
) -> None:
    """Make sure the store has the column of ``one``; encode the passages that are there already.

    The vectors gather beside the store, written after so many passages or ``commit_seconds``, so that a killed job goes
    on where it stopped; one commit then adds them all. Raises ``FingerprintMismatch`` when the column holds another
    encoder's vectors.
    """
    stored = writer.encoders
    if name in stored:
        require_same(name, stored[name], fingerprint, str(writer.path))
        return
    if len(writer) == 0:
        writer.add_encoder(name, fingerprint)
        return
    if not writer.manifest["text"]:
        raise StageError("an encoder cannot be added: the index stores no text", where=str(writer.path),
                         hint="index again into a new folder")
    with storage_errors(writer.path, "the disk refused the new encoder's vectors; what is encoded is kept"):
        pending = writer.pending(name, fingerprint)
        with progress_bar(f"encoding with {name}", len(writer), "passages", enabled=progress) as advance:
            advance(len(pending), "")
            _encode_rest(writer, one, pending, Pace(commit_seconds), advance)
    writer.add_encoder(name, fingerprint, pending.blocks())
    writer.discard_pending()


def _encode_rest(writer: Writer, one: OpenEncoder, pending: Pending, pace: Pace, advance: Advance) -> None:
    """Encode the passages that ``pending`` lacks. What is encoded is kept when the job breaks off."""
    waiting: list[Vectors] = []

    def keep() -> None:
        vectors = waiting[:]
        waiting.clear()  # first: whatever happens, nothing is written twice
        if vectors:
            pending.append(np.concatenate(vectors))
        pace.restart()

    try:
        for texts in writer.texts(_BLOCK, len(pending)):
            start = 0
            while start < len(texts):
                block = texts[start:start + pace.block]
                began = pace.now()
                waiting.append(checked_vectors(one, block))
                pace.encoded(len(block), pace.now() - began)
                start += len(block)
                advance(len(block), "")
                if sum(map(len, waiting)) >= _BLOCK or pace.due:
                    keep()
    finally:
        keep()


def checked_vectors(one: OpenEncoder, texts: Sequence[str]) -> Vectors:
    """Encode, and refuse vectors of another shape or with NaN before they reach the store."""
    vectors = one.encode_passages(texts)
    if vectors.shape != (len(texts), one.dimension):
        raise DimensionMismatch(
            f"the encoder gave {vectors.shape} for {len(texts)} passages of {one.dimension} components",
            where=f"encoder {one.name!r}", hint="its dimension and its output must agree")
    if not np.isfinite(vectors).all():
        raise StageError("a vector is not finite", where=f"encoder {one.name!r}",
                         hint="the model gave NaN: try another dtype or device")
    return vectors
