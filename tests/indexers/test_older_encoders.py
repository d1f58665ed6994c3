"""An index that was made before encoders were parts: its columns' metadata describe the encoder, and hold no
``part``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from regard.indexers import build_index, verify_index
from regard.indexers.encoders.dense import OnnxEncoder, SentenceTransformerEncoder
from regard.indexers.encoders.stored import same_encoder, stored_encoder
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document
from regard.rag.errors import FingerprintMismatch
from regard.retrievers import Dense

MADE = [SentenceTransformerEncoder("minilm"),
        SentenceTransformerEncoder("minilm", truncate_dim=32, passage_prompt="text: "),
        OnnxEncoder("bge-small"), OnnxEncoder("bge-small", pooling="mean", query_prompt="ask: ")]


KEYS = {"kind", "model", "weights", "query_prompt", "passage_prompt", "normalize", "dtype", "dimension"}


@pytest.mark.parametrize("encoder", MADE, ids=repr)
def test_it_is_found_extended_verified_and_searched(
    facts: list[Document], encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as older:  # what such a job wrote
        older.setattr("regard.indexers.jobs.index.described", lambda one: one.description())
        build_index(facts[:-1], tmp_path, encoder=encoder, chunker="whole", progress=False)
    (stored,) = LanceStore(tmp_path).encoders.values()
    assert set(stored) - {"pooling", "window"} == KEYS
    assert same_encoder(stored, encoder.description())
    assert same_encoder(stored_encoder(stored).description(), stored)
    report = build_index(facts, tmp_path, progress=False)  # the index's own encoder
    assert (report.unchanged, report.added, report.encoded) == (len(facts) - 1, 1, 1)
    assert build_index(facts, tmp_path, encoder=encoder, progress=False).encoded == 0
    assert verify_index(tmp_path).problems == []
    for named in (None, encoder):
        (found,) = Dense(tmp_path, encoder=named, k=1).apply([facts[-1].text])
        assert found[0].passage.document_id == facts[-1].id
    with pytest.raises(FingerprintMismatch):
        Dense(tmp_path, encoder=encoder.replace(normalize=False)).apply(["x"])
