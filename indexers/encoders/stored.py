"""The encoders of an index: what it remembers of each, and making it again from that.

An index keeps an encoder's description, and under ``part`` the encoder itself as plain values; those made before parts
were have none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...rag.errors import ConfigError, FingerprintMismatch, ModelNotFound, RegardError
from ...rag.models.chosen import expect_chosen
from ...rag.models.encoding import Encoder
from ...rag.parts import part, plain
from ...rag.parts.identity import hashed
from .dense import DenseEncoder, OnnxEncoder, SentenceTransformerEncoder

_DESCRIPTIVE = {"model", "part"}  # a model that moved to another folder is still the same encoder
_KINDS: dict[str, type[DenseEncoder]] = {cls.kind: cls for cls in (SentenceTransformerEncoder, OnnxEncoder)}


def column_name(model: str) -> str:
    """An encoder's name inside an index: the last part of the model's name, as a column name."""
    return re.sub(r"[^a-z0-9]+", "_", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("_") or "encoder"


def described(encoder: Encoder) -> dict[str, Any]:
    """What an index keeps of ``encoder``. One that no file can name is kept without its settings: only its object gives
    it back."""
    try:
        return {**encoder.description(),
                "part": plain(encoder.replace(device=None) if isinstance(encoder, DenseEncoder) else encoder)}
    except ConfigError:
        return encoder.description()


def same_encoder(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two descriptions give the same vectors."""
    return all(a.get(key) == b.get(key) for key in (a.keys() | b.keys()) - _DESCRIPTIVE)


def encoder_key(description: Mapping[str, Any]) -> str:
    """A hash that two descriptions share where they give the same vectors: what a query's vector says of its
    encoder."""
    return hashed({key: value for key, value in description.items() if key not in _DESCRIPTIVE})


def require_same(name: str, stored: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Raise ``FingerprintMismatch`` with both descriptions unless they agree."""
    if not same_encoder(stored, given):
        shown = [{key: value for key, value in one.items() if key != "part"} for one in (stored, given)]
        raise FingerprintMismatch(
            f"the vectors of {name!r} were made by another encoder:\n     index: {shown[0]}\n   encoder: {shown[1]}",
            where=where,
            hint="use the encoder that the index was made with, or index again into a new folder")


def chosen_encoder(stored: Mapping[str, Any], index: object, device: str | None = None) -> Encoder:
    """The encoder that ``index`` names, if the user has named its model too. Raises ``UntrustedModel`` where not;
    nothing of it is read."""
    model = own_model(stored)
    if model is not None:
        expect_chosen(model, "encoder", index)
    return stored_encoder(stored, device)


def own_model(stored: Mapping[str, Any]) -> str | None:
    """The model that an encoder with this description would load, if it is one of ours."""
    kept = stored.get("part")
    model = kept.get("model") if isinstance(kept,
                                            Mapping) else stored.get("model") if stored.get("kind") in _KINDS else None
    return model if isinstance(model, str) else None


def stored_encoder(stored: Mapping[str, Any], device: str | None = None) -> Encoder:
    """The encoder that an index names, made with the settings it was made with; for a model that nobody else named see
    :func:`chosen_encoder`.

    Raises ``ConfigError`` where no name gives it back: the index was made by an encoder object of the user's own class.
    """
    kept = stored.get("part")
    try:
        if isinstance(kept, Mapping):
            made = part(Encoder, kept)
            return made.replace(device=device) if device and "device" in made.setting_names() else made
        if stored.get("kind") in _KINDS:
            return _of_older_index(stored, device)
    except ModelNotFound:
        raise
    except RegardError:  # its class is not there any more, or was never registered
        pass
    shown = {key: value for key, value in stored.items() if key != "part"}
    raise ConfigError(f"this index was made by an encoder object, which no name gives back ({shown})", where="encoder",
                      hint="pass that object: Dense(index, encoder=...), build_index(documents, index, encoder=...)")


def _of_older_index(stored: Mapping[str, Any], device: str | None) -> Encoder:
    settings = {key: value for key, value in stored.items() if key not in ("kind", "weights", "dtype", "dimension")}
    return _KINDS[stored["kind"]](**settings, truncate_dim=stored["dimension"], device=device)
