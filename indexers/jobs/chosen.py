"""Which models an index names, and which its user does: an index from others may not choose what is loaded
(``rag.trust``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...rag.errors import ConfigError, MissingDependency
from ...rag.models.chosen import choose, expect_chosen, is_chosen
from ...rag.models.encoding import Encoder
from ...rag.parts import part
from ..chunkers import Chunker
from ..chunkers.token_starts import WORDS
from ..encoders.dense import DenseEncoder
from ..encoders.stored import own_model
from ..stores.lance.store import LanceStore
from ..views import ViewKind, view_kinds

ENCODER, TOKENIZER, LANGUAGE_MODEL = "encoder", "chunker's tokenizer", "language model"


def models_of(store: LanceStore) -> list[tuple[str, str]]:
    """What the index names a model for, and the model."""
    encoders = [own_model(fingerprint) for fingerprint in store.encoders.values()]
    readers = [kind.model for kind in view_kinds(store.path) if kind.model]
    tokenizers = _of_chunker(_stored_chunker(store))
    named = {ENCODER: filter(None, encoders), TOKENIZER: tokenizers, LANGUAGE_MODEL: readers}
    return [(what, model) for what, found in named.items() for model in found]


def models_not_chosen(index: str | Path) -> list[tuple[str, str]]:
    """Those of :func:`models_of` that the user of this machine has not named. Entry point ``regard.jobs: models``."""
    return [(what, model) for what, model in models_of(LanceStore(index)) if not is_chosen(model)]


def expect_models_chosen(store: LanceStore) -> None:
    """Raise ``UntrustedModel`` where the index names a model that the user has not."""
    for what, model in models_of(store):
        expect_chosen(model, what, store.path)


def choose_named(
    encoder: str | Encoder | None, chunker: Chunker | None, views: Sequence[str | ViewKind] | None,
) -> None:
    """Note the models that the user of ``build_index`` names, so that the index may."""
    name = encoder.name if isinstance(encoder, DenseEncoder) else encoder
    encoders = [name] if isinstance(name, str) else []
    readers = [kind.resolved().model for view in views or () if (kind := part(ViewKind, view)).model]
    for model in [*encoders, *_of_chunker(chunker), *readers]:
        if model and model != "auto":
            choose(model)


def _stored_chunker(store: LanceStore) -> Chunker | None:
    """None for one that cannot be made here: it loads nothing either."""
    try:
        return part(Chunker, store.manifest["chunker"]["spec"])
    except (ConfigError, MissingDependency):
        return None


def _of_chunker(chunker: Chunker | None) -> list[str]:
    """The models that its settings name, such as the one whose tokenizer it counts with."""
    named = [getattr(chunker, setting) for setting in chunker.model_settings] if chunker is not None else []
    return [name for name in named if isinstance(name, str) and name != WORDS]
