"""Dense encoders: sentence-transformers models and ONNX exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...rag import models
from ...rag.dag.scope import Scope
from ...rag.errors import ConfigError, MissingDependency, ModelNotFound
from ...rag.models.encoding import Encoder, OpenEncoder, Vectors
from ...rag.models.inert import expect_inert
from ...rag.models.onnx import OnnxModel
from ...rag.models.packing import pack
from ...rag.parts import Count

_CPU_TOKENS = 1024
_GPU_TOKENS = 32_768


class DenseEncoder(Encoder):
    """Settings and identity, which both kinds share.

    ``truncate_dim`` keeps the first so many components (Matryoshka models), then normalises; prompts are prepended to
    the text. ``batch_tokens`` bounds a forward pass, padding included: by default 1,024 on a CPU (measured 1.2 times as
    fast as batches of 32 texts, whose activations leave the cache) and 32,768 elsewhere.
    """

    kind: ClassVar[str]

    model: str = "minilm"
    normalize: bool = True
    truncate_dim: Count | None = None
    query_prompt: str = ""
    passage_prompt: str = ""
    batch_tokens: Count | None = None
    device: str | None = None

    @property
    def name(self) -> str:
        return self.model

    @property
    def files(self) -> models.ModelFiles:
        """Raises what ``rag.models.resolve`` raises."""
        return models.resolve(self.model)

    @property
    def dimension(self) -> int:
        return self.dimension_of(self.full_dimension())

    def dimension_of(self, full: int) -> int:
        """What is kept of vectors with ``full`` components. Raises ``ConfigError`` where there are fewer."""
        if self.truncate_dim is not None and self.truncate_dim > full:
            raise ConfigError(f"truncate_dim {self.truncate_dim} is not between 1 and {full}",
                              where=f"encoder {self.name!r}",
                              hint="leave it out to keep the whole vector")
        return self.truncate_dim or full

    def full_dimension(self) -> int:
        return _configured_dimension(self.files)

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Positions of texts of ``lengths`` tokens, in batches."""
        return pack(lengths, self.batch_tokens or (_CPU_TOKENS if models.device(self.device) == "cpu" else _GPU_TOKENS))

    def description(self) -> dict[str, Any]:
        mine = type(self)
        # a subclass is not its parent
        kind = self.kind if "kind" in vars(mine) else f"{mine.__module__}.{mine.__qualname__}"
        return {
            "kind": kind, "model": self.model, "weights": models.weights_hash(self.files),
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt, "normalize": self.normalize, "dtype": "float32",
            "dimension": self.dimension,
        }

    def finish(self, vectors: Vectors) -> Vectors:
        """Truncate, then normalise: a truncated unit vector is no unit vector."""
        kept = np.ascontiguousarray(vectors[:, :self.dimension_of(vectors.shape[1])], dtype=np.float32)
        if self.normalize:
            kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
        return kept


class SentenceTransformerEncoder(DenseEncoder):
    """A sentence-transformers model, a folder or a Hugging Face id; a plain transformers model gets mean pooling.

    Texts are packed by token count, so that little is padding; pass many at a time.
    """

    kind = "sentence-transformers"
    loads = frozenset({"sentence-transformers", "transformers"})

    def open(self, scope: Scope, /) -> OpenSentenceTransformer:
        key = ("sentence-transformers", self.files.path, self.device)
        model = models.acquire(key, self._load)
        scope.callback(models.release, key)
        return OpenSentenceTransformer(self, model)

    def _load(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingDependency("sentence-transformers is not installed", where=f"encoder {self.model!r}",
                                    hint="pip install sentence-transformers") from None
        from transformers.utils import logging

        from ...kernels.linear import accelerate

        logging.disable_progress_bar()  # the job has its own
        expect_inert(self.files)
        try:
            model = SentenceTransformer(self.files.path, device=models.device(self.device), trust_remote_code=False,
                                        model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            raise ModelNotFound(f"the encoder {self.model!r} cannot be loaded: {str(error).splitlines()[0]}",
                                where=self.files.path,
                                hint="check the name and the network, or use the embedded 'minilm'") from None
        accelerate(model)
        return model

    def full_dimension(self) -> int:
        if self.files.local:
            return super().full_dimension()
        with Scope() as scope:  # only a model on this machine tells without loading
            return scope.open(self).full_dimension


class OpenSentenceTransformer(OpenEncoder):
    """A loaded sentence-transformers model, used as its encoder says."""

    def __init__(self, encoder: SentenceTransformerEncoder, model: Any) -> None:
        self._encoder = encoder
        self._model = model
        self.name = encoder.name
        self.full_dimension = int(model.get_embedding_dimension())
        self.dimension = encoder.dimension_of(self.full_dimension)

    def truncated(self, texts: Sequence[str]) -> int:
        window = int(self._model.max_seq_length or 0)
        long = [text for text in texts if window and len(text) > window - 2]  # a token is at least one character
        if not long:
            return 0
        ids = self._model.tokenizer(long, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]
        return sum(len(row) > window for row in ids)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._encoder.passage_prompt)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._encoder.query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        vectors = np.zeros((len(texts), self.full_dimension), dtype=np.float32)
        for batch in self._encoder.batches(self._lengths(texts)):
            vectors[batch] = self._model.encode([texts[i] for i in batch], batch_size=len(batch), prompt=prompt or None,
                                                show_progress_bar=False)
        return self._encoder.finish(vectors)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, up to the window; a single text needs no measuring."""
        if len(texts) < 2:
            return [1] * len(texts)
        ids = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return [len(row) for row in ids]


class OnnxEncoder(DenseEncoder):
    """A BERT-like encoder exported to ONNX (``model.onnx`` and ``tokenizer.json`` in one folder), first token or mean
    pooled.

    ``query_prompt`` None takes the instruction of the embedded ``bge-small``, else none.
    """

    kind = "onnx"
    loads = frozenset({"onnx-encoder"})

    model: str = "bge-small"
    query_prompt: str | None = None  # type: ignore[assignment]  # what is asked in the end is `asked`
    pooling: Literal["cls", "mean"] = "cls"
    window: Count = 512

    @property
    def asked(self) -> str:
        """The prompt before a query."""
        if self.query_prompt is None:
            return _BGE_QUERY_PROMPT if self.model == "bge-small" else ""
        return self.query_prompt

    def description(self) -> dict[str, Any]:
        return {**super().description(), "query_prompt": self.asked, "pooling": self.pooling, "window": self.window}

    def open(self, scope: Scope, /) -> OpenOnnxEncoder:
        model = OnnxModel.acquire(self.files.path)
        scope.callback(model.release)
        return OpenOnnxEncoder(self, model)


class OpenOnnxEncoder(OpenEncoder):
    """A loaded ONNX encoder, used as its encoder says."""

    def __init__(self, encoder: OnnxEncoder, model: OnnxModel) -> None:
        self._encoder = encoder
        self._model = model
        self._full_dimension = encoder.full_dimension()
        self.name = encoder.name
        self.dimension = encoder.dimension_of(self._full_dimension)

    def truncated(self, texts: Sequence[str]) -> int:
        long = [text for text in texts if len(text) > self._encoder.window - 2]
        return sum(bool(encoding.overflowing)
                   for encoding in self._model.tokenize(long, self._encoder.window)) if long else 0

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode([self._encoder.passage_prompt + text for text in texts])

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode([self._encoder.asked + text for text in texts])

    def _encode(self, texts: Sequence[str]) -> Vectors:
        model = self._model
        encodings = model.tokenize(texts, self._encoder.window) if texts else []
        vectors = np.zeros((len(texts), self._full_dimension), dtype=np.float32)
        for chosen in self._encoder.batches([len(e) for e in encodings]):
            batch = [encodings[i] for i in chosen]
            vectors[chosen] = self._pool(model.run(batch), np.array([len(e) for e in batch]))
        return self._encoder.finish(vectors)

    def _pool(self, states: Vectors, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> Vectors:
        """``states`` [n, tokens, d], rows padded with anything after ``lengths`` [n]."""
        if self._encoder.pooling == "cls":
            return states[:, 0]
        mask = (np.arange(states.shape[1])[None] < lengths[:, None])[..., None]
        pooled: Vectors = (states * mask).sum(axis=1) / lengths[:, None]
        return pooled


_BGE_QUERY_PROMPT = "Represent this sentence for searching relevant passages: "


def _configured_dimension(files: models.ModelFiles) -> int:
    """The output dimension by a local model's configuration files: the last module that states one, else the hidden
    size."""
    folder = Path(files.path)
    found: int | None = None
    if (folder / "modules.json").exists():
        for module in json.loads((folder / "modules.json").read_text()):
            config = folder / module["path"] / "config.json"
            data = json.loads(config.read_text()) if config.exists() else {}
            found = next((data[key] for key in ("out_features", "embedding_dimension", "word_embedding_dimension")
                          if key in data), found)
    if found is None and (folder / "config.json").exists():
        found = json.loads((folder / "config.json").read_text()).get("hidden_size")
    if found is None:
        raise ModelNotFound(f"the dimension of {files.name!r} is stated nowhere", where=str(folder),
                            hint="the folder needs a config.json with hidden_size")
    return int(found)
