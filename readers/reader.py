"""The reader for the shared language model: passages in, a cited answer out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ..rag import models
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.trace import emit_text, record
from ..rag.errors import BudgetError, RegardError
from ..rag.lm import LanguageModel, describe
from ..rag.lm.passages import Format, SharesPrefill
from ..rag.lm.prefill import Mask, Prefill
from ..rag.nouns import Answer, Batch, Query, Ranking, Usage
from ..rag.parts import Count
from . import blocks
from .base import BaseReader, OpenEvidence
from .ending import AnswerGuard, Ended
from .packing import Size
from .prompt import ReaderPrompt

FORM = Format()
"""How passages stand under the block mask: as in a reranker's prompt."""

_QUESTION_TOKENS = 64
"""Room that ``check`` leaves for a question that it cannot know."""


class OpenReader(NamedTuple):
    lm: LanguageModel
    evidence: OpenEvidence


class Reader(BaseReader):
    """Answers each query from the passages of its ranking, with the language model ``lm``, and cites them.

    The first ``depth`` passages are packed whole into ``budget`` tokens, best first, until it is full, and stand in the
    prompt with the best one next to the question (``order="best-last"``) or at the beginning ("best-first"). The answer
    is at most ``max_new_tokens`` long, greedy at ``temperature`` 0, else sampled with ``top_p`` and ``seed``; it ends
    before the first ``stop`` string (``["\\n\\n"]``: after one paragraph), and where the model begins to repeat itself.
    ``system`` None is the chat template's own; ``instruction`` is the user's turn, with ``{passages}`` (each ends in a
    blank line) and ``{question}`` in it.

    With ``mask="block"`` the passages do not see each other, and the prompt begins as an ``AttentionReranker``'s does
    (``system``, ``order`` and what stands before the passages are not used). What a reranker of the same model with
    ``share`` set has prefilled is then not run again; the answer is the same, and the trace notes the tokens saved
    (``prefill_saved``).

    Similar passages are found by comparing the answer with what was shown (``readers.citations``), with the encoder
    ``embedder`` and the threshold ``min_support``; ``verifier`` judges whether they entail each sentence: ``lexical``
    (rules, no model), ``nli:MODEL``, ``lm:MODEL`` or None (``readers.verifiers``). What the model says twice stands
    once in the answer, as ``ending.without_repeats`` says (what was streamed stays as it was). An empty ranking gives
    an answer that says so, and the model is not asked.
    """

    positional = "lm"

    lm: str = "smollm2"
    max_new_tokens: Count = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    mask: Mask = "causal"
    device: str | None = None

    @property
    def deterministic(self) -> bool:
        """Only greedy answers are kept in a cache."""
        return self.temperature == 0

    def models(self) -> Sequence[str]:
        return (self.lm,)

    def identity(self) -> dict[str, Any]:
        """The weights hash of the language model (tokenizer and chat template in it), and the citations' encoder."""
        return {**super().identity(), "lm": models.weights_hash(models.resolve(self.lm))}

    def check(self) -> Iterator[Problem]:
        """The models are there, and a full budget with a question and its answer fits the model's window."""
        yield from super().check()
        try:
            window = describe(self.lm).window
        except RegardError as error:
            yield Problem.of(error)
            return
        # no tokenizer yet: three characters a token
        around = len((self.system or "") + self.instruction) // 3 + _QUESTION_TOKENS
        needed = self.budget + around + self.max_new_tokens
        if needed > window:
            yield Problem(f"budget {self.budget}, about {around} tokens of instruction and question, and "
                          f"max_new_tokens "
                          f"{self.max_new_tokens} exceed the window of {self.lm!r}, {window}",
                          hint=f"set budget to at most {max(1, window - around - self.max_new_tokens)}")

    def check_inputs(self, upstream: Mapping[str, Stage]) -> Iterator[Problem]:
        """Why the reader cannot go on from what a reranker before it prefilled."""
        for name, stage in upstream.items():
            if isinstance(stage, SharesPrefill) and (stage.share or self.mask == "block"):
                why = self._cannot_share(stage)
                if why:
                    yield Problem(f"it cannot go on from what {name} prefilled: {why[0]}", hint=why[1], fatal=False)

    def _cannot_share(self, stage: SharesPrefill) -> tuple[str, str] | None:
        """What stands in the way, and what to do."""
        if self.mask != "block":
            return "it reads under the causal mask", 'set mask="block"'
        if not stage.share:
            return f"{type(stage).__name__} passes nothing on", f"set share={self.depth}"
        if stage.lm != self.lm:
            return f"that is model {stage.lm!r}, and this one {self.lm!r}", "name the same lm in both"
        if stage.form != FORM:
            return "its passages stand otherwise in the prompt", "leave separator, max_words and turn as they are"
        if stage.share < self.depth:
            return (f"it passes on {stage.share} passages, and {self.depth} are read",
                    f"set share={self.depth}, or depth={stage.share}")
        return None

    def open(self, scope: Scope, /) -> OpenReader:
        lm = LanguageModel.acquire(self.lm, device=self.device, attention=self.mask == "block")
        scope.callback(lm.release)
        return OpenReader(lm, self.open_evidence(scope))

    def run(self, opened: OpenReader, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Answer]:
        """Raises ``BudgetError`` for a question that leaves no room for a passage."""
        return Batch(
            self._read(opened, position, query, ranking)
            for position, (query, ranking) in enumerate(zip(queries, rankings, strict=True))
        )

    def _read(self, opened: OpenReader, position: int, query: Query, ranking: Ranking) -> Answer:
        size, room = _size(opened.lm), self._room(opened.lm, query, _size(opened.lm))
        if self.mask == "block" and len(ranking):
            return self._read_blocks(opened, position, query, ranking, room)
        prompt = self._prompt(query, ranking, room, size)
        return self._nothing_found(position) if prompt is None else self._generate(opened, position, prompt)

    def _room(self, lm: LanguageModel, query: Query, size: Size) -> int:
        """The budget, or what the question leaves of the window."""
        frame = lm.frame(self.system)
        fixed = len(frame.prefix) + len(frame.suffix) + size(self.instruction) + size(query.text)
        room = lm.window - fixed - self.max_new_tokens
        if room < 1:
            raise BudgetError(f"the question needs {size(query.text)} tokens and leaves no room for a passage in the "
                              f"window of "
                              f"{lm.window}", where=f"query {query.id!r}",
                              hint="shorten the question, or lower max_new_tokens")
        return min(self.budget, room)

    def _generate(self, opened: OpenReader, position: int, prompt: ReaderPrompt) -> Answer:
        lm = opened.lm
        frame = lm.frame(self.system)
        pieces = [lm.tokens(piece) for piece in prompt.pieces]
        ids = [*frame.prefix, *chain.from_iterable(pieces), *frame.suffix]
        text, finish = self._text(lm, ids, position)
        usage = Usage(len(ids), len(lm.tokens(text)))
        record(tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens)
        return self._answer(opened.evidence, prompt, text, usage, finish, sizes=[len(piece) for piece in pieces],
                            before=len(frame.prefix))

    def _read_blocks(self, opened: OpenReader, position: int, query: Query, ranking: Ranking, room: int) -> Answer:
        lm = opened.lm
        laid = blocks.lay_out(lm, FORM, query.text, self.instruction, ranking.top(self.depth).passages(), room)
        context, saved = blocks.prefilled(lm, laid, ranking)
        text, finish = self._text(lm, laid.suffix, position, context)
        usage = Usage(len(context.plan.ids) + len(laid.suffix), len(lm.tokens(text)))
        record(tokens_in=usage.prompt_tokens - saved, tokens_out=usage.completion_tokens, prefill_saved=saved)
        return self._answer(opened.evidence, laid.prompt, text, usage, finish, sizes=laid.sizes,
                            before=len(laid.prefix))

    def _text(self, lm: LanguageModel, ids: list[int], position: int, context: Prefill | None = None) -> tuple[str,
                                                                                                               str]:
        """What the model wrote, and why it stopped, as in ``Answer.finish``."""
        guard = AnswerGuard(lambda piece: emit_text(position, piece), self.stop)
        try:
            generation = lm.generate(ids, context=context, max_new_tokens=self.max_new_tokens,
                                     temperature=self.temperature,
                                     top_p=self.top_p, seed=self.seed, on_text=guard)
        except Ended as ended:
            return guard.text, ended.finish
        return guard.finish(cut=generation.finish == "length"), generation.finish


def _size(lm: LanguageModel) -> Size:
    return lambda text: len(lm.tokens(text))
