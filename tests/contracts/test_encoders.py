"""What holds of every encoder: of the embedded models, of a model in a folder, and of another distribution's
encoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.indexers import build_index
from regard.indexers.encoders.dense import DenseEncoder
from regard.indexers.encoders.stored import described, same_encoder, stored_encoder
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document, models
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError
from regard.rag.models.encoding import Encoder, OpenEncoder, Vectors
from regard.rag.parts import part, plain, register, text_of
from regard.rag.tables import table

TEXTS = ["A flea lives for weeks.", "",
         "The Moon orbits the Earth once in about 27 days; its gravity causes the tides. " * 3,
         "é 漢字 🎉"]


class Letters(Encoder):
    """Another distribution's encoder: how often each letter occurs."""

    weight: float = 1.0
    name = "letters"
    dimension = 26

    def description(self) -> dict[str, Any]:
        return {"kind": "letters", "weight": self.weight, "dimension": self.dimension, "normalize": False}

    def open(self, scope: Scope, /) -> OpenEncoder:
        return OpenLetters(self)


class OpenLetters(OpenEncoder):
    def __init__(self, encoder: Letters) -> None:
        self.name, self.dimension, self._weight = encoder.name, encoder.dimension, encoder.weight

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        rows = [[text.lower().count(chr(97 + i)) for i in range(self.dimension)] for text in texts]
        return np.array(rows, np.float32).reshape(-1, self.dimension) * np.float32(self._weight)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    register(Letters, name="letters")
    yield
    table("regard.encoders").forget("letters")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentence-transformers model of random weights, in a folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(models.resolve("minilm").path)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=32)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[words, Pooling(16)], device="cpu").save(str(folder / "model"))
    return str(folder / "model")


NAMES = ["minilm", "bge-small", "tiny", "letters"]


@pytest.fixture(params=NAMES)
def encoder(request: pytest.FixtureRequest, tiny: str) -> Encoder:
    return part(Encoder, tiny if request.param == "tiny" else request.param)


@pytest.fixture(params=NAMES[:-1])
def dense(request: pytest.FixtureRequest, tiny: str) -> DenseEncoder:
    made = part(Encoder, tiny if request.param == "tiny" else request.param)
    assert isinstance(made, DenseEncoder)
    return made


def test_each_of_the_table_is_tried_here(tiny: str) -> None:
    """An encoder that is added to the table adds its model to ``NAMES``."""
    tried = {type(part(Encoder, tiny if name == "tiny" else name)) for name in NAMES}
    assert {table("regard.encoders")[name] for name in table("regard.encoders")} <= tried


def test_vectors_are_float32_rows_that_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    with Scope() as scope:
        opened = scope.open(encoder)
        assert (opened.name, opened.dimension) == (encoder.name, encoder.dimension)
        for encode in (opened.encode_passages, opened.encode_queries):
            together = encode(TEXTS)
            assert together.shape == (len(TEXTS), encoder.dimension)
            assert together.dtype == np.float32
            assert np.isfinite(together).all()
            np.testing.assert_allclose(np.concatenate([encode([text]) for text in TEXTS]), together, atol=2e-6)
            np.testing.assert_allclose(encode(TEXTS[::-1])[::-1], together, atol=2e-6)
            assert encode([]).shape == (0, encoder.dimension)
        assert opened.truncated(["short", *TEXTS]) == 0
        assert not np.allclose(opened.encode_passages(TEXTS[:1]), opened.encode_passages(TEXTS[2:3]))


def test_settings_do_what_they_say(dense: DenseEncoder) -> None:
    changed = dense.replace(truncate_dim=8, query_prompt="ask: ", passage_prompt="tell: ")
    with Scope() as scope:
        full, bare, short = (scope.open(e) for e in (dense, dense.replace(normalize=False, query_prompt=""), changed))
        vectors = full.encode_passages(TEXTS)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        raw = bare.encode_passages(["ask: x", "tell: x"])
        cut = raw[:, :8] / np.linalg.norm(raw[:, :8], axis=1, keepdims=True)
        np.testing.assert_allclose(short.encode_queries(["x"])[0], cut[0], atol=2e-6)
        np.testing.assert_allclose(short.encode_passages(["x"])[0], cut[1], atol=2e-6)
        assert short.dimension == changed.dimension == 8
    with pytest.raises(ConfigError, match="truncate_dim"):
        _ = dense.replace(truncate_dim=100_000).dimension


def test_every_setting_that_decides_a_vector_is_in_the_description(dense: DenseEncoder) -> None:
    other: dict[str, Any] = {"normalize": False, "truncate_dim": 8, "query_prompt": "a", "passage_prompt": "b"}
    other |= {name: value for name, value in {"pooling": "mean", "window": 64}.items() if name in dense.setting_names()}
    assert set(dense.setting_names()) - set(other) == {"model", "batch_tokens",
                                                       "device"}, "a new setting belongs into one of the two"
    found = [dense, *(dense.replace(**{name: value}) for name, value in other.items())]
    assert all(not same_encoder(dense.description(), one.description()) for one in found[1:])
    assert len({one.fingerprint() for one in found}) == len(found)


def test_the_description_moves_with_the_weights(tiny: str, tmp_path: Path) -> None:
    import shutil

    moved, changed = (Path(shutil.copytree(tiny, tmp_path / name)) for name in ("moved", "changed"))
    weights = next(changed.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    first, same, other = (part(Encoder, str(path)).description() for path in (tiny, moved, changed))
    assert same_encoder(first, same)
    assert not same_encoder(first, other)


def test_it_is_given_back_by_text_by_plain_values_and_by_an_index(encoder: Encoder, tmp_path: Path) -> None:
    assert part(Encoder, text_of(encoder)) == encoder
    assert part(Encoder, json.loads(json.dumps(plain(encoder)))) == encoder
    build_index([Document("a", TEXTS[0]), Document("b", TEXTS[2])], tmp_path, encoder=encoder, chunker="whole",
                progress=False)
    store = LanceStore(tmp_path)
    (kept,) = store.encoders.values()
    assert kept == json.loads(json.dumps(described(encoder)))
    assert stored_encoder(kept) == encoder
    with Scope() as scope:
        expected = scope.open(encoder).encode_passages([p.full_text for p in store.passages(store.rows)])
    np.testing.assert_allclose(np.concatenate([*store.vectors(next(iter(store.encoders)))]), expected, atol=2e-6)


def test_two_scopes_at_once(encoder: Encoder) -> None:
    with Scope() as outer:
        held = outer.open(encoder)
        with Scope() as inner:
            expected = inner.open(encoder).encode_queries(TEXTS[:1])
        np.testing.assert_allclose(held.encode_queries(TEXTS[:1]), expected, atol=2e-6)


def test_nothing_is_loaded_before_it_is_opened(encoder: Encoder) -> None:
    import subprocess

    if isinstance(encoder, Letters):
        pytest.skip("it loads nothing")
    code = f"""
import sys
from regard.rag.models.encoding import Encoder
from regard.rag.parts import part
one = part(Encoder, {encoder.name!r})
one.description(), one.dimension, one.fingerprint()
print([name for name in ("torch", "onnxruntime", "sentence_transformers", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
