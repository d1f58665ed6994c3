"""In-Context Re-ranking (ICR): passages ranked by the attention that a language model's reading of the query pays to them.

Source: Chen, Gutiérrez and Su 2024, "Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers",
arXiv 2410.02642. The prompt is one user turn: numbered passages, an instruction, the query. Every token of the context gets the
attention of all tokens from the instruction on, over all layers and heads, minus what a content-free query pays it; a passage's
score is the sum over its tokens without low outliers.

Departures: each piece of the prompt is tokenised apart, once, so that spans are known by construction (the published code
tokenises the growing prompt again after each passage; the tokens are the same where a tokenizer keeps punctuation and line
breaks apart), and a token equal to the outlier threshold is kept (``kernels.span_filter_sum``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from ..rag.documents import Batch, Passage, Query, Ranking, Scores
from ..rag.errors import BudgetError, ConfigError, RegardError, StageError
from ..rag.lm import LanguageModel, describe
from ..rag.models import resolve, weights_hash
from ..rag.stage import Problem, Stage
from ..rag.trace import record

INTRODUCTION = "Here are some paragraphs:"
INSTRUCTIONS = {
    "search": "Please find information that are relevant to the following query in the paragraphs above.",  # their grammar
    "qa": "Please answer the following question based on the information in the paragraphs above.",
}
LEAST_PASSAGE_TOKENS = 16
"""Passages are not cut shorter than this to fit the window."""

_WORD = re.compile(r"\S+")


class AttentionReranker(Stage):
    """Reranks each ranking's first ``depth`` hits by the attention of language model ``lm``; scores in ``attention-mass``.

    - ``order``: where the best first-stage passage stands in the prompt. ``best-last``, next to the query, is the published
      form; part of its score is that position (attention favours what is near).
    - ``task``: the instruction's wording, for ``search`` or for question answering (``qa``).
    - ``separator``: between passages. ``max_words``: a passage (title and text) is cut after so many.
    - ``calibration``: the content-free query whose attention is subtracted; None for uncalibrated scores.
    - ``turn``: text before and after the user turn's content, instead of the model's own chat template; special tokens in it count.
    - ``keep_tail``: hits beyond ``depth`` are dropped, so that all scores are attention mass; or with True follow in their
      order, with scores 1, 2, 3, ... below the least reranked one.

    A prompt longer than the model's window is cut evenly: the longest passages lose their ends until all fit (counted in the
    trace as ``passages_cut``); when they would keep fewer than 16 tokens each, ``BudgetError``.
    """

    version: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True

    def __init__(
        self, lm: str = "smollm2", depth: int = 20, order: Literal["best-last", "best-first"] = "best-last",
        task: Literal["search", "qa"] = "search", separator: str = "\n", max_words: int = 300, calibration: str | None = "N/A",
        turn: tuple[str, str] | None = None, keep_tail: bool = False, device: str | None = None,
    ) -> None:
        if depth < 1 or max_words < 1:
            raise ConfigError(f"depth {depth} and max_words {max_words} must be 1 or more", where=type(self).__name__)
        self.lm = lm
        self.depth = depth
        self.order = order
        self.task = task
        self.separator = separator
        self.max_words = max_words
        self.calibration = calibration
        self.turn = turn
        self.keep_tail = keep_tail
        self.device = device
        self._model: LanguageModel | None = None

    def open(self) -> None:
        self._model = LanguageModel.acquire(self.lm, device=self.device)

    def close(self) -> None:
        if self._model is not None:
            self._model.release()
            self._model = None

    def state(self) -> Any:
        return {"weights": weights_hash(resolve(self.lm))}

    def check(self) -> Iterator[Problem]:
        try:
            window = describe(self.lm).window
        except RegardError as error:
            yield Problem(error.what, where=self.label, hint=error.hint or "")
            return
        if self.depth * LEAST_PASSAGE_TOKENS > window:
            yield Problem(
                f"{self.depth} passages do not fit the {window} tokens of {self.lm!r}, even cut to {LEAST_PASSAGE_TOKENS} each",
                where=self.label, hint=f"set depth to at most {window // LEAST_PASSAGE_TOKENS // 2}",
            )

    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        if self._model is None:
            raise StageError("the stage is not open", where=self.label, hint="call open() first, or run it in a pipeline")
        done = [self._rerank(self._model, query, ranking) for query, ranking in zip(queries, rankings, strict=True)]
        record(tokens_in=sum(p.tokens for _, p in done), passages_cut=sum(p.cut for _, p in done))
        return Batch(ranking for ranking, _ in done)

    def _rerank(self, model: LanguageModel, query: Query, ranking: Ranking) -> tuple[Ranking, Prompt]:
        head = ranking.top(self.depth)
        prompt = self._prompt(model, query, head.passages())
        scores = _scores(model, prompt)
        if self.keep_tail and len(ranking) > len(head):
            tail = np.arange(1, len(ranking) - len(head) + 1, dtype=np.float32)
            return ranking.rescore(np.concatenate([scores, scores.min() - tail]), "attention-mass", stage=self.label), prompt
        return head.rescore(scores, "attention-mass", stage=self.label), prompt

    def _prompt(self, model: LanguageModel, query: Query, passages: Sequence[Passage]) -> Prompt:
        before, after = self.turn or model.turn()
        ask = INSTRUCTIONS[self.task] + self.separator + "Query: "
        asked = [query.text] if self.calibration is None else [query.text, self.calibration]
        end = model.template_tokens(after)
        suffixes = [model.tokens(ask + text) + end for text in asked]

        start = model.template_tokens(before + INTRODUCTION + self.separator)
        separator = model.tokens(self.separator)
        positions = range(len(passages)) if self.order == "best-first" else range(len(passages) - 1, -1, -1)
        blocks = {p: model.tokens(f"[{i}] {_shown(passages[p], self.max_words)}") for i, p in enumerate(positions, start=1)}
        room = model.window - len(start) - len(separator) * len(passages) - max(map(len, suffixes))
        longest = _longest_that_fits([len(block) for block in blocks.values()], room)
        if longest < LEAST_PASSAGE_TOKENS and any(len(block) > longest for block in blocks.values()):
            raise BudgetError(f"{len(passages)} passages and the query do not fit the {model.window} tokens of {self.lm!r}",
                              where=f"{self.label}, query {query.id!r}",
                              hint="lower depth, shorten the query, or take a model of a longer window")

        context, spans = list(start), [(0, 0)] * len(passages)
        for p, block in blocks.items():
            spans[p] = (len(context), len(context) + min(len(block), longest))
            context += block[:longest] + separator
        return Prompt(context, spans, suffixes, sum(len(block) > longest for block in blocks.values()))


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids: a context, and suffixes that each follow it (the query's, then the content-free one's).

    ``spans`` are the half-open token spans of the passages in the context, in the ranking's order; ``cut`` counts those cut to fit.
    """

    context: list[int]
    spans: list[tuple[int, int]]
    suffixes: list[list[int]]
    cut: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.context) + sum(map(len, self.suffixes)) if self.spans else 0


def _scores(model: LanguageModel, prompt: Prompt) -> Scores:
    """float32 [passages], in the ranking's order."""
    if not prompt.spans:
        return np.zeros(0, dtype=np.float32)
    import torch

    from ..kernels.span_filter_sum import span_filter_sum

    mass = model.attention_mass(prompt.context, prompt.suffixes, weights=[1.0, -1.0][:len(prompt.suffixes)])
    scores: Scores = span_filter_sum(torch.from_numpy(mass), prompt.spans).numpy()
    return scores


def _shown(passage: Passage, max_words: int) -> str:
    """Title and text, up to the end of word ``max_words``."""
    text = passage.full_text
    last = next(islice(_WORD.finditer(text), max_words - 1, None), None)
    return text if last is None else text[:last.end()]


def _longest_that_fits(lengths: Sequence[int], room: int) -> int:
    """The greatest length to which all ``lengths`` can be cut so that their sum fits ``room`` (at least 0)."""
    left = room
    for done, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - done)
        if length > share:
            return max(share, 0)
        left -= length
    return max(lengths, default=0)
