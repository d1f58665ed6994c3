"""Reranking with a cross-encoder: a model that reads a query and a passage together and gives one relevance score.

Nogueira and Cho 2019, "Passage Re-ranking with BERT" (arXiv 1901.04085); the embedded model is the int8 ONNX MiniLM-L12
trained on MS MARCO.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..rag import models
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Need, Problem, Stage
from ..rag.dag.trace import record
from ..rag.errors import ModelNotFound, RegardError, UnsupportedModel
from ..rag.models.chosen import hub
from ..rag.models.inert import expect_inert
from ..rag.models.onnx import Encoding, OnnxModel
from ..rag.models.packing import pack
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts import Card, Count
from ..rag.trust import Connection

Pair = tuple[str, str]
_TOKENIZED_AT_ONCE = 1024
"""Pairs: bounds the memory that the token ids of a large batch of queries take."""


class CrossEncoder(Stage):
    """Scores the first ``depth`` passages of each ranking and returns those, best first, in score space ``"logit"``.

    Hits beyond ``depth`` are dropped: their old scores live in another space, and a ranking has one. The score is the
    model's raw logit, before any sigmoid, so it compares across queries of one model only. A passage is read with its
    title before it (``Passage.full_text``). The pairs of all queries of the batch are sorted by length and packed
    together by token count.

    Settings: ``model`` is ``minilm-cross-encoder``, a folder (``model.onnx`` with ``tokenizer.json``, or a
    sentence-transformers cross-encoder) or a Hugging Face id; ``max_length`` in tokens cuts longer pairs, the longer
    side first (the trace's note ``truncated`` counts them); ``batch_tokens`` bounds a forward pass, padding included;
    ``device`` is a torch device (None: the best there is; ONNX models choose their own).
    """

    card = Card("Nogueira and Cho", 2019, arxiv="1901.04085")
    needs = frozenset({Need.TEXT})

    model: str = "minilm-cross-encoder"
    depth: Count = 50
    max_length: Count = 512
    batch_tokens: Count = 4096
    device: str | None = None

    def check(self) -> Iterator[Problem]:
        """The model's files and packages."""
        try:
            kind = models.resolve(self.model).kind
        except RegardError as error:
            yield Problem.of(error)
            return
        if kind == "gguf":
            yield Problem(f"{self.model!r} is a GGUF language model, not a cross-encoder",
                          hint="name a cross-encoder, for example minilm-cross-encoder")
            return
        package = "onnxruntime" if kind.startswith("onnx") else "sentence_transformers"
        if find_spec(package) is None:
            yield Problem(f"{package} is not installed", hint=f"pip install {package.replace('_', '-')}")

    def identity(self) -> str:
        """The model's weights hash."""
        return models.weights_hash(models.resolve(self.model))

    def connections(self) -> Iterator[Connection]:
        return hub([self.model])

    def open(self, scope: Scope, /) -> _Scorer:
        scorer = _load(self.model, self.max_length, self.device)
        scope.callback(scorer.release)
        return scorer

    def run(self, scorer: _Scorer, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        """Raises ``StageError`` when a score is not finite."""
        heads = [ranking.top(self.depth) for ranking in rankings]
        pairs = [(query.text, p.full_text) for query, head in zip(queries, heads, strict=True) for p in head.passages()]
        scores = self._scores(scorer, pairs)
        # the rest after the last is empty
        parts = np.split(scores, np.cumsum([len(head) for head in heads], dtype=np.int64))[:-1]
        return Batch(head.rescore(part, "logit") for head, part in zip(heads, parts, strict=True))

    def _scores(self, scorer: _Scorer, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """float32 [len(pairs)]."""
        scores = np.zeros(len(pairs), dtype=np.float32)
        tokens, truncated = 0, 0
        for start in range(0, len(pairs), _TOKENIZED_AT_ONCE):
            batch = scorer.tokenize(pairs[start:start + _TOKENIZED_AT_ONCE])
            for group in pack(batch.lengths, self.batch_tokens):
                scores[start + np.array(group)] = batch.score(group)
            tokens += sum(batch.lengths)
            truncated += batch.truncated
        record(tokens_in=tokens, truncated=truncated)
        return scores


class _Tokenized(Protocol):
    """Pairs as token ids; ``lengths`` without padding, ``truncated`` the number that did not fit the window."""

    lengths: list[int]
    truncated: int

    def score(self, group: Sequence[int]) -> NDArray[np.float32]:
        """The logits of the pairs at these positions, in one forward pass: float32 [len(group)]."""


class _Scorer(Protocol):
    """A loaded cross-encoder."""

    def tokenize(self, pairs: Sequence[Pair]) -> _Tokenized: ...

    def release(self) -> None: ...


def _load(name: str, max_length: int, device: str | None) -> _Scorer:
    files = models.resolve(name)
    if files.kind == "gguf":
        raise UnsupportedModel(f"{name!r} is a GGUF language model, not a cross-encoder", where=files.path,
                               hint="name a cross-encoder, for example minilm-cross-encoder")
    if files.kind.startswith("onnx"):
        return _OnnxScorer(files.path, max_length)
    return _TorchScorer(files.path, max_length, models.device(device))


class _OnnxScorer:
    def __init__(self, folder: str, max_length: int) -> None:
        self._model = OnnxModel.acquire(folder)
        self._max_length = max_length

    def tokenize(self, pairs: Sequence[Pair]) -> _Tokenized:
        return _OnnxPairs(self._model, self._model.tokenize(pairs, self._max_length))

    def release(self) -> None:
        self._model.release()


class _OnnxPairs:
    def __init__(self, model: OnnxModel, encodings: list[Encoding]) -> None:
        self._model = model
        self._encodings = encodings
        self.lengths = [len(encoding) for encoding in encodings]
        self.truncated = sum(bool(encoding.overflowing) for encoding in encodings)

    def score(self, group: Sequence[int]) -> NDArray[np.float32]:
        logits = self._model.run([self._encodings[i] for i in group])
        return _one_score_a_pair(logits, len(group), self._model.folder)


class _TorchScorer:
    """Any sentence-transformers cross-encoder: its own tokenisation, prompt and modules, without its activation."""

    def __init__(self, path: str, max_length: int, device: str) -> None:
        self._path = path
        self._key = ("cross-encoder", path, max_length, device)
        self._model = models.acquire(self._key, lambda: _sentence_transformer(path, max_length, device))

    def tokenize(self, pairs: Sequence[Pair]) -> _Tokenized:
        return _TorchPairs(self._model, pairs, self._path)

    def release(self) -> None:
        models.release(self._key)


class _TorchPairs:
    def __init__(self, model: Any, pairs: Sequence[Pair], path: str) -> None:
        self._model = model
        self._path = path
        self._features = self._preprocess(pairs)
        self.lengths: list[int] = self._features["attention_mask"].sum(dim=1).tolist()
        self.truncated = self._count_truncated(pairs)

    def score(self, group: Sequence[int]) -> NDArray[np.float32]:
        import torch

        mask = self._features["attention_mask"][list(group)]
        columns = mask.any(dim=0)  # padding may be on either side, and is as wide as the longest pair of all
        taken = {
            name: value[list(group)][:, columns] if isinstance(value, torch.Tensor) and value.ndim == 2 else value
            for name, value in self._features.items()
        }
        moved = {name: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for name, v in taken.items()}
        with torch.inference_mode():
            logits = self._model(moved)["scores"].float().cpu().numpy()
        return _one_score_a_pair(logits, len(group), self._path)

    def _preprocess(self, pairs: Sequence[Pair], **text_settings: Any) -> dict[str, Any]:
        """All pairs at once, so that each is tokenised once; padded to the longest."""
        prompt = (self._model.prompts or {}).get(self._model.default_prompt_name)
        features: dict[str, Any] = self._model.preprocess(list(pairs), prompt=prompt,
                                                          processing_kwargs={"text": text_settings})
        return features

    def _count_truncated(self, pairs: Sequence[Pair]) -> int:
        """A pair that fills the window may fit exactly: only those are tokenised again, whole."""
        window = self._model.max_seq_length
        full = [pair for pair, length in zip(pairs, self.lengths, strict=True) if window and length >= window]
        if not full:
            return 0
        whole = self._preprocess(full, truncation=False)["attention_mask"].sum(dim=1)
        return int((whole > window).sum())


def _sentence_transformer(path: str, max_length: int, device: str) -> Any:
    """In float32 or the checkpoint's own dtype, in evaluation mode. Raises ``ModelNotFound`` for one that cannot be
    loaded, ``UnsupportedModel`` for more than one output."""
    from sentence_transformers import CrossEncoder as Model

    expect_inert(models.resolve(path))
    try:
        model = Model(path, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"the cross-encoder {path!r} cannot be loaded: {str(error).splitlines()[0]}", where=path,
                            hint="check the name and the network, or use the embedded 'minilm-cross-encoder'") from None
    model.eval()
    model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    if model.num_labels != 1:
        raise UnsupportedModel(f"the model gives {model.num_labels} outputs a pair, a reranker needs one", where=path,
                               hint="name a cross-encoder trained for ranking (num_labels=1)")
    return model


def _one_score_a_pair(logits: NDArray[np.float32], pairs: int, where: str) -> NDArray[np.float32]:
    if logits.size != pairs:
        raise UnsupportedModel(f"the model's output has shape {logits.shape} for {pairs} pairs, a reranker needs one "
                               f"score each",
                               where=where, hint="name a cross-encoder trained for ranking, not an encoder")
    return logits.reshape(pairs).astype(np.float32)
