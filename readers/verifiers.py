"""Verifiers with a model: ``nli:MODEL`` (natural language inference), ``lm:MODEL`` (a language model asked)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..rag import models
from ..rag.dag.scope import Scope
from ..rag.errors import MissingDependency, ModelNotFound, UnsupportedModel
from ..rag.lm import LanguageModel
from ..rag.models import ModelFiles
from ..rag.models.inert import expect_inert
from ..rag.models.packing import pack
from ..rag.models.verification import Verifier

_BATCH_TOKENS = 4096
_LONGEST = 512
"""Tokens of a pair; of one that is longer, the longer text (the premise, as a rule) loses its end."""

QUESTION = ("Text: {premise}\n\nStatement: {hypothesis}\n\nDoes the text say that the statement is true? Answer yes or "
            "no.")
_YES, _NO = ("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")


class ModelVerifier(Verifier):
    """A verifier with a model, which answers name as ``family:MODEL``."""

    family: ClassVar[str]

    model: str
    device: str | None = None

    @property
    def name(self) -> str:
        return f"{self.family}:{self.model}"

    def models(self) -> Sequence[str]:
        return (self.model,)


class NLIVerifier(ModelVerifier):
    """A sequence classifier trained on natural language inference (cross-encoder): the softmax probability of its label
    *entailment*.

    The label's place is read from the model's own ``id2label``. ``model`` is a folder or a Hugging Face id; weights are
    read from safetensors only.
    """

    family = "nli"

    def identity(self) -> str:
        """The model's weights hash."""
        return models.weights_hash(_classifier(self.model))

    def open(self, scope: Scope, /) -> OpenNLI:
        """Raises ``ModelNotFound``, ``MissingDependency`` and, for a model without a label for entailment,
        ``UnsupportedModel``."""
        files, device = _classifier(self.model), models.device(self.device)
        key = ("nli", files.path, device)
        model, tokenizer = models.acquire(key, lambda: _load(files, device))
        scope.callback(models.release, key)
        return OpenNLI(model, tokenizer, _entailment(model.config, self.model))


@dataclass(frozen=True, slots=True)
class OpenNLI:
    """``entailment`` is the label's index."""

    model: Any
    tokenizer: Any
    entailment: int

    def entails(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float64]:
        """float64 [n]; pairs of similar length share a forward pass."""
        import torch

        limit = min(_LONGEST, self.tokenizer.model_max_length)
        rows = [self.tokenizer(p, h, truncation="longest_first", max_length=limit)
                for p, h in zip(premises, hypotheses, strict=True)]
        found = np.zeros(len(rows), dtype=np.float64)
        for group in pack([len(row["input_ids"]) for row in rows], _BATCH_TOKENS):
            batch = self.tokenizer.pad([rows[i] for i in group], return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**batch).logits
            found[group] = logits.float().softmax(dim=-1)[:, self.entailment].cpu().numpy()
        return found


def _classifier(name: str) -> ModelFiles:
    files = models.resolve(name)
    if files.kind in ("gguf", "onnx-encoder", "onnx-cross-encoder"):
        raise UnsupportedModel(f"{name!r} is no sequence classifier but of the kind {files.kind}", where=files.path,
                               hint="name a transformers model trained on natural language inference")
    if find_spec("transformers") is None:
        raise MissingDependency("transformers is not installed", where=name, hint="pip install transformers")
    if files.local and not Path(files.path, "config.json").is_file():
        raise ModelNotFound(f"there is no model in {name!r}: it has no config.json", where=files.path,
                            hint="check the path")
    return files


def _load(files: ModelFiles, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    expect_inert(files)
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            files.path, use_safetensors=True, trust_remote_code=False, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(f"the classifier {files.name!r} cannot be loaded: {str(error).splitlines()[0]}",
                            where=files.path,
                            hint="name a folder with config.json, model.safetensors and tokenizer files, or a Hugging "
                                 "Face id") from error
    if loaded["missing_keys"]:
        raise UnsupportedModel(f"{files.name!r} has no trained classifier: its weights lack "
                               f"{sorted(loaded['missing_keys'])[0]}",
                               where=files.path, hint="name a model trained on natural language inference")
    _entailment(model.config, files.name)
    return model.eval().to(device), tokenizer


def _entailment(config: Any, name: str) -> int:
    """The index of the label that means entailment."""
    labels = {int(index): str(label).lower() for index, label in config.id2label.items()}
    found = [index for index, label in labels.items() if label.startswith("entail")]
    if len(found) != 1:
        raise UnsupportedModel(f"the labels of {name!r} are {', '.join(labels.values())}: not one of them is "
                               f"entailment", where=name,
                               hint="name a model trained on natural language inference, with its labels in "
                                    "config.json")
    return found[0]


class LMVerifier(ModelVerifier):
    """A language model asked whether the premise says what the hypothesis states: P(yes) / (P(yes) + P(no)) of the
    answer's first token.

    No text is generated. ``model`` is as in ``Reader.lm``, with which it is shared. The verdict is as good as the
    model: SmolLM2-135M leans to "no" whatever it reads, so that nothing passes (``rag.models.verification.MEASURED``).
    """

    family = "lm"

    def identity(self) -> str:
        """The model's weights hash."""
        return models.weights_hash(models.resolve(self.model))

    def open(self, scope: Scope, /) -> OpenLMVerifier:
        lm = LanguageModel.acquire(self.model, device=self.device)
        scope.callback(lm.release)
        return OpenLMVerifier(lm)


@dataclass(frozen=True, slots=True)
class OpenLMVerifier:
    lm: LanguageModel

    def entails(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float64]:
        """float64 [n], one prompt after the other. Raises ``BudgetError`` for a pair that does not fit the model's
        window."""
        return np.array([_yes(self.lm, p, h) for p, h in zip(premises, hypotheses, strict=True)], dtype=np.float64)


def _yes(lm: LanguageModel, premise: str, hypothesis: str) -> float:
    frame = lm.frame()
    likely = lm.next_probabilities([*frame.prefix, *lm.tokens(QUESTION.format(premise=premise, hypothesis=hypothesis)),
                                    *frame.suffix])
    yes, no = (float(sum(likely[token] for token in {lm.tokens(word)[0] for word in words})) for words in (_YES, _NO))
    return yes / (yes + no) if yes + no else 0.0
