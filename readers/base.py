"""What every reader does, whichever model writes the answer: pack the passages, build the prompt, cite the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..rag import models
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Need, Problem, Stage
from ..rag.dag.trace import emit_text
from ..rag.errors import ConfigError, RegardError
from ..rag.models.chosen import hub
from ..rag.models.encoding import Encoder, OpenEncoder
from ..rag.models.verification import OpenVerifier, Verifier
from ..rag.nouns import Answer, Query, Ranking, Usage
from ..rag.parts import Count, Share, part
from ..rag.trust import Connection
from .citations import MIN_SUPPORT, cite
from .ending import without_repeats
from .lexical import LexicalVerifier
from .packing import Size, pack
from .prompt import PASSAGES, QUESTION, PassageOrder, ReaderPrompt, after_passage, before_passages, boundary, build

SYSTEM = "You are a helpful assistant."
INSTRUCTION = f"{PASSAGES}{QUESTION}"
"""Chosen by trying: with the passages and the bare question SmolLM2-135M answers 10 of 11 test questions with what the
passages say, with five more explicit instructions 5 to 8; it repeats the order, or the question, instead of
answering."""
NOTHING_FOUND = "No passage was found that answers this question."


class OpenEvidence(NamedTuple):
    """What an answer's sentences are compared with the passages by."""

    encoder: OpenEncoder
    verifier: OpenVerifier | None


class BaseReader(Stage):
    """The part of a reader that does not depend on its model."""

    version = 3  # passages that could be taken for several stand between lines of their own

    needs = frozenset({Need.TEXT})

    depth: Count = 10
    budget: Count = 1024
    order: PassageOrder = "best-last"
    system: str | None = SYSTEM
    instruction: str = INSTRUCTION
    embedder: str = "minilm"
    min_support: Share = MIN_SUPPORT
    verifier: Verifier | None = LexicalVerifier()

    def __post_init__(self) -> None:
        missing = [part for part in (PASSAGES, QUESTION) if self.instruction.count(part) != 1]
        if missing:
            raise ConfigError(f"the instruction has not one place for {' and '.join(missing)}: {self.instruction!r}",
                              where=type(self).__name__, hint=f"write it like {INSTRUCTION!r}")

    def open_evidence(self, scope: Scope) -> OpenEvidence:
        """The citations' encoder and the verifier."""
        judge = scope.open(self.verifier) if self.verifier is not None else None
        return OpenEvidence(scope.open(part(Encoder, self.embedder)), judge)

    def identity(self) -> dict[str, Any]:
        """What the citations' encoder is (its weights, and how it is used)."""
        return {"embedder": part(Encoder, self.embedder).description()}

    def connections(self) -> Iterator[Connection]:
        return hub([*self.models(), self.embedder, *(self.verifier.models() if self.verifier is not None else ())])

    def models(self) -> Sequence[str]:
        """The models that it loads besides those of its citations and its verifier, by name."""
        return ()

    def check(self) -> Iterator[Problem]:
        """The citations' encoder and the verifier's model are there."""
        for look in (lambda: models.resolve(self.embedder),
                     self.verifier.identity if self.verifier is not None else None):
            try:
                if look is not None:
                    look()
            except RegardError as error:
                yield Problem.of(error)

    def _prompt(self, query: Query, ranking: Ranking, budget: int, size: Size) -> ReaderPrompt | None:
        """The prompt for one query, or None when its ranking has no passage that could be shown."""
        passages = ranking.top(self.depth).passages()
        line = boundary(query.text, passages)
        packed = pack(passages, max(1, budget - size(before_passages(line))) if line else budget, size,
                      after_passage(line))
        return build(query.text, packed, self.order, self.instruction, line) if packed.passages else None

    def _nothing_found(self, position: int) -> Answer:
        """No passage, no answer: the model is not asked to answer from memory."""
        emit_text(position, NOTHING_FOUND)
        return Answer(NOTHING_FOUND)

    def _answer(
        self, evidence: OpenEvidence, prompt: ReaderPrompt, text: str, usage: Usage, finish: str | None, *,
        sizes: Sequence[int], before: int,
    ) -> Answer:
        """The answer, each sentence once, with its evidence; ``sizes`` and ``before`` as in
        :meth:`ReaderPrompt.context`."""
        answer = without_repeats(text.strip())
        entails = evidence.verifier.entails if evidence.verifier is not None else None
        cited = cite(answer, prompt.passages, evidence.encoder.encode_passages, self.min_support, entails)
        context = prompt.context(sizes, before, usage.prompt_tokens)
        if not answer and finish in (None, "stop", "repetition"):
            finish = "empty"
        judge = self.verifier.name if self.verifier is not None else None
        return Answer(answer, cited.citations, context, usage, cited.sentences, judge, finish)
