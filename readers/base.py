"""What every reader does, whichever model writes the answer: pack the passages, build the prompt, cite the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..rag import models
from ..rag.documents import Answer, Query, Ranking, Usage
from ..rag.encoding import Encoder, encoder
from ..rag.errors import ConfigError, RegardError
from ..rag.stage import Problem, Stage
from ..rag.trace import Token, emit
from .citations import cite
from .packing import Size, pack
from .prompt import PASSAGES, QUESTION, Order, Prompt, build

SYSTEM = "You are a helpful assistant."
INSTRUCTION = f"{PASSAGES}{QUESTION}"
"""Chosen by trying: with the passages and the bare question SmolLM2-135M answers 10 of 11 test questions with what the passages say,
with five more explicit instructions 5 to 8; it repeats the order, or the question, instead of answering."""
NOTHING_FOUND = "No passage was found that answers this question."


class BaseReader(Stage):
    """The part of a reader that does not depend on its model. Subclasses call :meth:`_set` in their constructor."""

    needs_text = True

    depth: int
    budget: int
    order: Order
    system: str | None
    instruction: str
    embedder: str
    min_support: float
    _encoder: Encoder | None

    def _set(
        self, *, depth: int, budget: int, order: Order, system: str | None, instruction: str, embedder: str, min_support: float,
    ) -> None:
        missing = [part for part in (PASSAGES, QUESTION) if instruction.count(part) != 1]
        if missing:
            raise ConfigError(f"the instruction has not one place for {' and '.join(missing)}: {instruction!r}",
                              where=type(self).__name__, hint=f"write it like {INSTRUCTION!r}")
        self.depth = depth
        self.budget = budget
        self.order = order
        self.system = system
        self.instruction = instruction
        self.embedder = embedder
        self.min_support = min_support
        self._encoder = None

    def open(self) -> None:
        opened = encoder(self.embedder)
        opened.open()
        self._encoder = opened

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def state(self) -> dict[str, Any]:
        """The fingerprint of the citations' encoder: its weights, and how it is used."""
        return {"embedder": encoder(self.embedder).fingerprint()}

    def check(self) -> Iterator[Problem]:
        """The citations' encoder is there."""
        try:
            models.resolve(self.embedder)
        except RegardError as error:
            yield Problem(error.what, self.label, error.hint or "")

    def _prompt(self, query: Query, ranking: Ranking, budget: int, size: Size) -> Prompt | None:
        """The prompt for one query, or None when its ranking has no passage that could be shown."""
        packed = pack(ranking.top(self.depth).passages(), budget, size)
        return build(query.text, packed, self.order, self.instruction) if packed.passages else None

    def _nothing_found(self, position: int) -> Answer:
        """No passage, no answer: the model is not asked to answer from memory."""
        emit(Token(self.label, position, NOTHING_FOUND))
        return Answer(NOTHING_FOUND)

    def _answer(self, prompt: Prompt, text: str, usage: Usage, *, sizes: Sequence[int], before: int) -> Answer:
        """The answer with its evidence; ``sizes`` and ``before`` as in :meth:`Prompt.context`."""
        if self._encoder is None:
            raise self.not_open()
        answer = text.strip()
        cited = cite(answer, prompt.passages, self._encoder.encode_passages, self.min_support)
        context = prompt.context(sizes, before, usage.prompt_tokens)
        return Answer(answer, cited.citations, context, cited.confidence, usage, cited.sentences)
