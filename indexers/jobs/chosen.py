"""Which models an index names, and which its user does: an index from others may not choose what is loaded (``rag.trust``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...rag.models.chosen import choose, expect_chosen, is_chosen
from ...rag.models.encoding import Encoder
from ...rag.parts import part
from ..chunkers.chunkers import WORDS, chunker
from ..encoders.dense import OnnxEncoder, SentenceTransformerEncoder
from ..stores.lance.store import LanceStore
from ..views import ViewKind, view_kinds
from .columns import own_model

ENCODER, TOKENIZER, LANGUAGE_MODEL = "encoder", "chunker's tokenizer", "language model"


def models_of(store: LanceStore) -> list[tuple[str, str]]:
    """What the index names a model for, and the model."""
    encoders = [own_model(fingerprint) for fingerprint in store.encoders.values()]
    readers = [kind.model for kind in view_kinds(store.path) if kind.model]
    tokenizers = _tokenizer(store.manifest["chunker"]["spec"])
    named = {ENCODER: filter(None, encoders), TOKENIZER: tokenizers, LANGUAGE_MODEL: readers}
    return [(what, model) for what, found in named.items() for model in found]


def models_not_chosen(index: str | Path) -> list[tuple[str, str]]:
    """Those of :func:`models_of` that the user of this machine has not named. Entry point ``regard.jobs: models``."""
    return [(what, model) for what, model in models_of(LanceStore(index)) if not is_chosen(model)]


def expect_models_chosen(store: LanceStore) -> None:
    """Raise ``UntrustedModel`` where the index names a model that the user has not."""
    for what, model in models_of(store):
        expect_chosen(model, what, store.path)


def choose_named(encoder: str | Encoder | None, chunker: str, views: Sequence[str | ViewKind] | None) -> None:
    """Note the models that the user of ``build_index`` names, so that the index may."""
    name = encoder.name if isinstance(encoder, SentenceTransformerEncoder | OnnxEncoder) else encoder
    encoders = [name] if isinstance(name, str) else []
    readers = [kind.resolved().model for view in views or () if (kind := part(ViewKind, view)).model]
    for model in [*encoders, *_tokenizer(chunker), *readers]:
        if model and model != "auto":
            choose(model)


def _tokenizer(spec: str) -> list[str]:
    """The model whose tokenizer the chunker ``spec`` counts with."""
    name = getattr(chunker(spec), "tokenizer", WORDS) if spec != "auto" else WORDS
    return [] if name == WORDS else [name]
