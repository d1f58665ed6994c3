"""Dense encoders of an index: finding them by fingerprint, and adding one to passages that are already stored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...rag.errors import ConfigError, DimensionMismatch, FingerprintMismatch, ModelNotFound, StageError
from ...rag.models.chosen import expect_chosen
from ...rag.models.encoding import Encoder, Vectors
from ...rag.models.encoding import encoder as make_encoder
from ...rag.progress import Advance, progress_bar
from ..encoders.dense import OnnxEncoder, SentenceTransformerEncoder
from ..stores.locks import storage_errors
from ..stores.protocols import Pending, Store, Writer
from .pace import Pace

_DESCRIPTIVE = {"model"}  # a model that moved to another folder is still the same encoder
_OUR_KINDS = {SentenceTransformerEncoder.kind, OnnxEncoder.kind}
_BLOCK = 2048


def column_name(model: str) -> str:
    """An encoder's name inside an index: the last part of the model's name, as a column name."""
    return re.sub(r"[^a-z0-9]+", "_", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("_") or "encoder"


def same_encoder(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two fingerprints give the same vectors."""
    return all(a.get(key) == b.get(key) for key in (a.keys() | b.keys()) - _DESCRIPTIVE)


def require_same(name: str, stored: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Raise ``FingerprintMismatch`` with both fingerprints unless they agree."""
    if not same_encoder(stored, given):
        raise FingerprintMismatch(
            f"the vectors of {name!r} were made by another encoder:\n"
            f"     index: {dict(stored)}\n   encoder: {dict(given)}", where=where,
            hint="use the encoder that the index was made with, or index again into a new folder")


def chosen_encoder(fingerprint: Mapping[str, Any], index: object, device: str | None = None) -> Encoder:
    """The encoder that ``index`` names, if the user has named its model too. Raises ``UntrustedModel`` where not;
    nothing of it is read."""
    model = own_model(fingerprint)
    if model is not None:
        expect_chosen(model, "encoder", index)
    return stored_encoder(fingerprint, device)


def own_model(fingerprint: Mapping[str, Any]) -> str | None:
    """The model that an encoder of ours with this fingerprint would load."""
    model = fingerprint.get("model")
    return model if fingerprint.get("kind") in _OUR_KINDS and isinstance(model, str) else None


def stored_encoder(fingerprint: Mapping[str, Any], device: str | None = None) -> Encoder:
    """The encoder that an index names, made with the settings it was made with; for a model that nobody else named see
    :func:`chosen_encoder`.

    Raises ``ConfigError`` where no name gives it back: the index was made by an encoder object of the user's own class.
    """
    settings = {key: value for key, value in fingerprint.items() if key not in ("kind", "model", "weights", "dtype")}
    kind = fingerprint.get("kind")
    try:
        made = make_encoder(fingerprint["model"], device=device, **settings)
        if getattr(made, "kind", kind) == kind:
            return made
    except (KeyError, TypeError):  # its fingerprint names no model, or settings that no encoder of ours has
        pass
    except ModelNotFound:
        if kind in _OUR_KINDS:
            raise  # one that can be made by name, if its folder were still there
    raise ConfigError(f"this index was made by an encoder object, which no name gives back ({dict(fingerprint)})",
                      where="encoder",
                      hint="pass that object: Dense(index, encoder=...), build_index(documents, index, encoder=...)")


def index_encoders(wanted: str | Encoder | None, existing: Store | None, default: str) -> dict[str, Encoder]:
    """The encoders that a job must run, by column name: all that the index holds, and the one that is asked for."""
    stored = existing.encoders if existing is not None else {}
    chosen = (None if existing is not None else default) if wanted == "auto" else wanted
    if chosen is not None and (not chosen or not isinstance(chosen, str | Encoder)):
        raise ConfigError(f"{chosen!r:.80} is no encoder", where="encoder",
                          hint="give a model's name or an object of the protocol Encoder")
    asked = make_encoder(chosen) if isinstance(chosen, str) else chosen
    replaced = None if asked is None else column_name(asked.name)
    encoders = {name: stored_encoder(fingerprint) for name, fingerprint in stored.items() if name != replaced}
    if asked is not None:
        encoders[column_name(asked.name)] = asked
    return encoders


def encode_existing(writer: Writer, name: str, one: Encoder, *, progress: bool | None, commit_seconds: float) -> None:
    """Make sure the store has the column of ``one``; encode the passages that are there already.

    The vectors gather beside the store, written after so many passages or ``commit_seconds``, so that a killed job goes
    on where it stopped; one commit then adds them all. Raises ``FingerprintMismatch`` when the column holds another
    encoder's vectors.
    """
    fingerprint = one.fingerprint()
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


def _encode_rest(writer: Writer, one: Encoder, pending: Pending, pace: Pace, advance: Advance) -> None:
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


def checked_vectors(one: Encoder, texts: Sequence[str]) -> Vectors:
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
