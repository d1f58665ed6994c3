"""What every reader does, whichever model writes the answer: pack the passages, build the prompt, cite the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from ..rag import models
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.trace import TextDelta, emit
from ..rag.errors import ConfigError, RegardError
from ..rag.models.encoding import Encoder, encoder
from ..rag.models.verification import Verifier
from ..rag.nouns import Answer, Query, Ranking, Usage
from .citations import cite
from .ending import without_repeats
from .packing import Size, pack
from .prompt import PASSAGES, QUESTION, PassageOrder, ReaderPrompt, after_passage, before_passages, boundary, build
from .verifiers import verifier as verifier_named

SYSTEM = "You are a helpful assistant."
INSTRUCTION = f"{PASSAGES}{QUESTION}"
"""Chosen by trying: with the passages and the bare question SmolLM2-135M answers 10 of 11 test questions with what the passages say,
with five more explicit instructions 5 to 8; it repeats the order, or the question, instead of answering."""
NOTHING_FOUND = "No passage was found that answers this question."


class BaseReader(Stage):
    """The part of a reader that does not depend on its model. Subclasses call :meth:`_set` in their constructor."""

    version = 3  # passages that could be taken for several stand between lines of their own

    needs_text = True
    model_settings: ClassVar[tuple[str, ...]] = ("embedder", "verifier")

    depth: int
    budget: int
    order: PassageOrder
    system: str | None
    instruction: str
    embedder: str
    min_support: float
    verifier: str | None
    _encoder: Encoder | None
    _verifier: Verifier | None

    def _set(
        self, *, depth: int, budget: int, order: PassageOrder, system: str | None, instruction: str, embedder: str, min_support: float,
        verifier: str | None,
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
        self.verifier = verifier
        self._encoder = None
        self._verifier = None
        self._judge()  # refuses a name that is none

    def _judge(self) -> Verifier | None:
        return verifier_named(self.verifier) if self.verifier else None

    def open(self) -> None:
        opened = encoder(self.embedder)
        opened.open()
        self._encoder = opened
        judge = self._judge()
        if judge is not None:
            judge.open()
        self._verifier = judge

    def close(self) -> None:
        for held in (self._encoder, self._verifier):
            if held is not None:
                held.close()
        self._encoder = self._verifier = None

    def state(self) -> dict[str, Any]:
        """What the citations' encoder (its weights, and how it is used) and the verifier's model are."""
        judge = self._judge()
        return {"embedder": encoder(self.embedder).fingerprint(), "verifier": judge.state() if judge else None}

    def check(self) -> Iterator[Problem]:
        """The citations' encoder and the verifier's model are there."""
        judge = self._judge()
        for look in (lambda: models.resolve(self.embedder), judge.state if judge else None):
            try:
                if look is not None:
                    look()
            except RegardError as error:
                yield Problem(error.what, self.label, error.hint or "")

    def _prompt(self, query: Query, ranking: Ranking, budget: int, size: Size) -> ReaderPrompt | None:
        """The prompt for one query, or None when its ranking has no passage that could be shown."""
        passages = ranking.top(self.depth).passages()
        line = boundary(query.text, passages)
        packed = pack(passages, max(1, budget - size(before_passages(line))) if line else budget, size, after_passage(line))
        return build(query.text, packed, self.order, self.instruction, line) if packed.passages else None

    def _nothing_found(self, position: int) -> Answer:
        """No passage, no answer: the model is not asked to answer from memory."""
        emit(TextDelta(self.label, position, NOTHING_FOUND))
        return Answer(NOTHING_FOUND)

    def _answer(self, prompt: ReaderPrompt, text: str, usage: Usage, finish: str | None, *, sizes: Sequence[int], before: int) -> Answer:
        """The answer, each sentence once, with its evidence; ``sizes`` and ``before`` as in :meth:`ReaderPrompt.context`."""
        if self._encoder is None:
            raise self.not_open()
        answer = without_repeats(text.strip())
        entails = self._verifier.entails if self._verifier else None
        cited = cite(answer, prompt.passages, self._encoder.encode_passages, self.min_support, entails)
        context = prompt.context(sizes, before, usage.prompt_tokens)
        if not answer and finish in (None, "stop", "repetition"):
            finish = "empty"
        return Answer(answer, cited.citations, context, usage, cited.sentences, self.verifier, finish)
