"""Dense encoders: sentence-transformers models and ONNX exports, behind one protocol (``regard.rag.models.encoding.Encoder``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...rag import models
from ...rag.errors import ConfigError, MissingDependency, ModelNotFound
from ...rag.models.encoding import Vectors
from ...rag.models.inert import expect_inert
from ...rag.models.onnx import OnnxModel
from ...rag.models.packing import pack

_CPU_TOKENS = 1024
_GPU_TOKENS = 32_768


class _Base:
    """Settings and identity, which both kinds share."""

    kind: str

    def __init__(
        self, name: str, *, normalize: bool = True, dimension: int | None = None, query_prompt: str = "", passage_prompt: str = "",
        batch_tokens: int | None = None, device: str | None = None,
    ) -> None:
        """``dimension`` keeps the first so many components (Matryoshka models), then normalises; prompts are prepended to the text.

        ``batch_tokens`` bounds a forward pass, padding included: by default 1,024 on a CPU (measured 1.2 times as fast as batches of 32
        texts, whose activations leave the cache) and 32,768 elsewhere.
        """
        self.name = name
        self.normalize = normalize
        self.query_prompt = query_prompt
        self.passage_prompt = passage_prompt
        self.batch_tokens = batch_tokens
        self.device = device
        self._files = models.resolve(name)
        self._truncate = dimension
        self._dimension: int | None = None

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            full = self._full_dimension()
            if self._truncate is not None and not 0 < self._truncate <= full:
                raise ConfigError(f"dimension {self._truncate} is not between 1 and {full}", where=f"encoder {self.name!r}",
                                  hint="leave it out to keep the whole vector")
            self._dimension = self._truncate or full
        return self._dimension

    def _full_dimension(self) -> int:
        return _configured_dimension(self._files)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Positions of texts of ``lengths`` tokens, in batches."""
        return pack(lengths, self.batch_tokens or (_CPU_TOKENS if models.device(self.device) == "cpu" else _GPU_TOKENS))

    def fingerprint(self) -> dict[str, Any]:
        mine = type(self)
        kind = self.kind if "kind" in vars(mine) else f"{mine.__module__}.{mine.__qualname__}"  # a subclass is not its parent
        return {
            "kind": kind, "model": self.name, "weights": models.weights_hash(self._files), "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt, "normalize": self.normalize, "dtype": "float32", "dimension": self.dimension,
        }

    def _finish(self, vectors: Vectors) -> Vectors:
        """Truncate, then normalise: a truncated unit vector is no unit vector."""
        kept = np.ascontiguousarray(vectors[:, :self.dimension], dtype=np.float32)
        if self.normalize:
            kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
        return kept


class SentenceTransformerEncoder(_Base):
    """A sentence-transformers model, a folder or a Hugging Face id; a plain transformers model gets mean pooling.

    Texts are packed by token count, so that little is padding; pass many at a time.
    """

    kind = "sentence-transformers"
    _model: Any = None

    def open(self) -> None:
        if self._model is None:
            self._model = models.acquire(self._key, self._load)

    def close(self) -> None:
        if self._model is not None:
            self._model = None
            models.release(self._key)

    @property
    def _key(self) -> tuple[str, str, str | None]:
        return ("sentence-transformers", self._files.path, self.device)

    def _load(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingDependency("sentence-transformers is not installed", where=f"encoder {self.name!r}",
                                    hint="pip install sentence-transformers") from None
        from transformers.utils import logging

        from ...kernels.linear import accelerate

        logging.disable_progress_bar()  # the job has its own
        expect_inert(self._files)
        try:
            model = SentenceTransformer(self._files.path, device=models.device(self.device), trust_remote_code=False,
                                        model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            raise ModelNotFound(f"the encoder {self.name!r} cannot be loaded: {str(error).splitlines()[0]}", where=self._files.path,
                                hint="check the name and the network, or use the embedded 'minilm'") from None
        accelerate(model)
        return model

    def _full_dimension(self) -> int:
        if self._model is None and not self._files.local:
            self.open()  # only a model on this machine tells without loading
        return int(self._model.get_embedding_dimension()) if self._model is not None else super()._full_dimension()

    def truncated(self, texts: Sequence[str]) -> int:
        window = int(self._model.max_seq_length or 0)
        long = [text for text in texts if window and len(text) > window - 2]  # a token is at least one character
        if not long:
            return 0
        ids = self._model.tokenizer(long, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]
        return sum(len(row) > window for row in ids)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self.passage_prompt)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self.query_prompt)

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        vectors = np.zeros((len(texts), self._full_dimension()), dtype=np.float32)
        for batch in self._batches(self._lengths(texts)):
            vectors[batch] = self._model.encode([texts[i] for i in batch], batch_size=len(batch), prompt=prompt or None,
                                                show_progress_bar=False)
        return self._finish(vectors)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, up to the window; a single text needs no measuring."""
        if len(texts) < 2:
            return [1] * len(texts)
        ids = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return [len(row) for row in ids]


class OnnxEncoder(_Base):
    """A BERT-like encoder exported to ONNX (``model.onnx`` and ``tokenizer.json`` in one folder), first token or mean pooled."""

    kind = "onnx"
    _model: OnnxModel | None = None

    def __init__(
        self, name: str, *, pooling: str = "cls", window: int = 512, normalize: bool = True, dimension: int | None = None,
        query_prompt: str | None = None, passage_prompt: str = "", batch_tokens: int | None = None, device: str | None = None,
    ) -> None:
        """``pooling`` is ``cls`` or ``mean``; ``query_prompt`` None takes the instruction of the embedded ``bge-small``, else none."""
        if pooling not in ("cls", "mean"):
            raise ConfigError(f"pooling {pooling!r} is neither 'cls' nor 'mean'", where=f"encoder {name!r}", hint="see the model's card")
        if query_prompt is None:
            query_prompt = _BGE_QUERY_PROMPT if name == "bge-small" else ""
        super().__init__(name, normalize=normalize, dimension=dimension, query_prompt=query_prompt, passage_prompt=passage_prompt,
                         batch_tokens=batch_tokens, device=device)
        self.pooling = pooling
        self.window = window

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "pooling": self.pooling, "window": self.window}

    def open(self) -> None:
        if self._model is None:
            self._model = OnnxModel.acquire(self._files.path)

    def close(self) -> None:
        if self._model is not None:
            self._model.release()
            self._model = None

    def _opened(self) -> OnnxModel:
        if self._model is None:
            self.open()
        assert self._model is not None
        return self._model

    def truncated(self, texts: Sequence[str]) -> int:
        long = [text for text in texts if len(text) > self.window - 2]
        return sum(bool(encoding.overflowing) for encoding in self._opened().tokenize(long, self.window)) if long else 0

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode([self.passage_prompt + text for text in texts])

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode([self.query_prompt + text for text in texts])

    def _encode(self, texts: Sequence[str]) -> Vectors:
        model = self._opened()
        encodings = model.tokenize(texts, self.window) if texts else []
        vectors = np.zeros((len(texts), self._full_dimension()), dtype=np.float32)
        for chosen in self._batches([len(e) for e in encodings]):
            batch = [encodings[i] for i in chosen]
            vectors[chosen] = self._pool(model.run(batch), np.array([len(e) for e in batch]))
        return self._finish(vectors)

    def _pool(self, states: Vectors, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> Vectors:
        """``states`` [n, tokens, d], rows padded with anything after ``lengths`` [n]."""
        if self.pooling == "cls":
            return states[:, 0]
        mask = (np.arange(states.shape[1])[None] < lengths[:, None])[..., None]
        pooled: Vectors = (states * mask).sum(axis=1) / lengths[:, None]
        return pooled


_BGE_QUERY_PROMPT = "Represent this sentence for searching relevant passages: "


def _configured_dimension(files: models.ModelFiles) -> int:
    """The output dimension by a local model's configuration files: the last module that states one, else the hidden size."""
    folder = Path(files.path)
    found: int | None = None
    if (folder / "modules.json").exists():
        for module in json.loads((folder / "modules.json").read_text()):
            config = folder / module["path"] / "config.json"
            data = json.loads(config.read_text()) if config.exists() else {}
            found = next((data[key] for key in ("out_features", "embedding_dimension", "word_embedding_dimension") if key in data), found)
    if found is None and (folder / "config.json").exists():
        found = json.loads((folder / "config.json").read_text()).get("hidden_size")
    if found is None:
        raise ModelNotFound(f"the dimension of {files.name!r} is stated nowhere", where=str(folder),
                            hint="the folder needs a config.json with hidden_size")
    return int(found)
