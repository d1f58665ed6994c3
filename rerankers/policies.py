"""Policies: which attention counts, under which mask, and how it becomes a score. Each is a published method, or ours.

All score passages by the attention that a reading of the query pays to their tokens (``LanguageModel.attention_mass``). They
differ in the prompt, in what passages see of each other, in which heads, layers and rows count, and in what is made of the sum. Each
says where it comes from and where it departs from there. What all depart in: attention is summed in float32 (the authors run float16),
a prompt's pieces are tokenised one by one, the user's turn is the model's chat template's (theirs leaves line breaks out: set ``turn``),
a token that lies *at* the filter's threshold stays (theirs drops it, which matters only where all of a passage's are equal), and a
passage of one token keeps it (theirs has no deviation then).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..rag.errors import ConfigError
from ..rag.lm.heads import Heads, Measure, chosen
from ..rag.lm.passages import CONSTANT_MARKER, Format, Prompt, lay_out
from ..rag.lm.prefill import Mask, Positions
from ..rag.nouns import Passage, Scores
from ..rag.text import Span
from .prompts import INSTRUCTIONS, BlockRankFormat, CoReFormat, Task

if TYPE_CHECKING:
    from ..rag.lm import LanguageModel

Order = Sequence[int] | None
Lay = Callable[[Order], Prompt]
"""Puts the candidates into a prompt in this order, without those it leaves out; None: in one that does not depend on the order they come
in."""

PUBLISHED = "published"
"""As a separator: that of ICR's and QRHead's code."""


@dataclass(frozen=True, slots=True)
class Scored:
    """``scores`` float32 [passages], in the ranking's order; ``mass`` float32 [context], what each token of ``prompt`` contributed."""

    scores: Scores
    mass: NDArray[np.float32]
    prompt: Prompt


class Policy(BaseModel):
    """Settings that all policies have.

    - ``calibration``: the content-free query whose attention is subtracted; None for uncalibrated scores.
    - ``separator``: between passages. ``"published"`` is that of ICR's and QRHead's code: ``" \\n\\n"`` for models named Llama (their
      tokenizer joins a full stop with the line breaks after it), ``"\\n\\n"`` for all others.
    - ``deviations``: a passage's tokens this many standard deviations below its mean do not count; None counts all.
    - ``fusion``: None gives the attention's score alone. A weight w from 0 to 1 gives w * attention + (1 - w) * first stage, each
      brought to mean 0 and standard deviation 1 over the candidates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: str | None = "N/A"
    separator: str = "\n"
    deviations: Annotated[float, Field(ge=0)] | None = 2.0
    fusion: Annotated[float, Field(ge=0, le=1)] | None = None

    mask: ClassVar[Mask] = "causal"
    positions: ClassVar[Positions] = "distinct"
    marker: ClassVar[str] = "[{i}] "
    query_first: ClassVar[bool] = False
    """Whether the query stands before the passages too: their keys and values are then of no use to another."""

    def order(self, n: int) -> Order:
        """The best first-stage passage last, next to the query: the published code's."""
        return range(n - 1, -1, -1)

    def at_once(self, n: int) -> int:
        """How many of ``n`` candidates stand in one prompt."""
        return n

    def heads_in(self, lm: str) -> Heads:
        """The (layer, head) pairs that count in model ``lm``; None: all."""
        return None

    def form(self, lm: str, query: str, max_words: int = 300, turn: tuple[str, str] | None = None) -> Format:
        """How passages stand in model ``lm``'s prompt; it depends on ``query`` only under ``query_first``."""
        return Format(self.marker, self._separator_in(lm), max_words, turn=turn)

    def suffixes(self, lm: LanguageModel, form: Format, task: Task, query: str) -> list[list[int]]:
        """What follows the passages: the instruction with the query, and with the content-free one if there is one."""
        ask = INSTRUCTIONS[task] + form.separator + "Query: "
        return [form.suffix(lm, ask + text) for text in (query, self.calibration) if text is not None]

    def rows(self, lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> list[Span] | None:
        """Which rows of each suffix count, half-open; None: all, from the instruction to the end of the turn."""
        return None

    def suffix_at(self, lm: LanguageModel) -> int | None:
        """The position where the suffixes begin, for passages at shared positions; None: ``rag.lm.passages.suffix_position``."""
        return None

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        """Rank ``n`` candidates, by default as ICR does."""
        return self._scored(lm, lay(self.order(n)))

    def _scored(self, lm: LanguageModel, prompt: Prompt) -> Scored:
        mass = lm.attention_mass(prompt.context, prompt.suffixes, heads=self.heads_in(lm.info.name), mask=prompt.mask,
                                 positions=prompt.positions, blocks=prompt.blocks, weights=[1.0, -1.0][:len(prompt.suffixes)],
                                 query_rows=prompt.rows, after=prompt.after)
        return Scored(_summed(mass, prompt, self.deviations), mass, prompt)

    def _separator_in(self, lm: str) -> str:
        if self.separator != PUBLISHED:
            return self.separator
        return " \n\n" if named(lm, "llama") else "\n\n"


class _Listwise(Policy):
    """Passages that see those before them, one after the other.

    - ``first``: where the best first-stage passage stands. Part of the score is that place (attention favours what is near), which
      calibration does not remove.
    - ``window``, ``stride``: more than ``window`` candidates are ranked in windows, as ICR's code does: the last ``window`` first, and so
      on to the best in steps of ``stride`` (half a window by default); what comes out best of one window stands in the next too. Scores
      compare within a window only: those that a window settles are lowered until its best is 1 below the next window's worst. None:
      all in one prompt, which ICR's authors recommend wherever it fits.
    """

    first: Literal["best-last", "best-first"] = "best-last"
    window: Annotated[int, Field(ge=2)] | None = None
    stride: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _expect_windows_that_meet(self) -> Self:
        if self.stride is not None and (self.window is None or self.stride > self.window):
            raise ValueError("stride is a step of a window, so there must be one, at least as long")
        if self.window is not None and self.fusion is not None:
            raise ValueError("scores of several windows cannot be weighed against the first stage's: set window or fusion")
        return self

    def order(self, n: int) -> Order:
        return self._laid(range(n - 1, -1, -1))

    def at_once(self, n: int) -> int:
        return min(n, self.window or n)

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        if self.at_once(n) == n:
            return super().score(lm, lay, n)
        assert self.window is not None
        stride = self.stride or max(1, self.window // 2)
        ascending = list(range(n - 1, -1, -1))  # worst first
        settled: list[tuple[Scored, list[int]]] = []
        for start in range(0, n, stride):
            stop = min(start + self.window, n)
            scored = self._scored(lm, lay(self._laid(ascending[start:stop])))
            ascending[start:stop] = sorted(ascending[start:stop], key=lambda p: scored.scores[p])
            settled.append((scored, ascending[start:stop if stop == n else start + stride]))
            if stop == n:
                break
        return _joined(settled, n)

    def _laid(self, ascending: Sequence[int]) -> Sequence[int]:
        return ascending if self.first == "best-last" else ascending[::-1]


class ICR(_Listwise):
    """In-Context Re-ranking: Chen, Gutiérrez and Su 2024, arXiv 2410.02642; OSU-NLP-Group/In-Context-Reranking.

    - Rows: all from the instruction on to the end of the turn. Heads: all. Calibration: "N/A"'s attention is subtracted, token by token.
    - Filter: a passage's tokens below its mean less 2 standard deviations, after summing the heads. Spans include the marker ``[i] ``.
    - Mask and positions: causal, one after the other; the best first-stage passage last (their scripts' ``--reverse_doc_order``).

    Departs: ``separator`` is a line break by default; ``"published"`` is theirs. ``window`` is off by default; their class has 20 and 10,
    their scripts no window.
    """

    kind: Literal["ICR"] = "ICR"


class _OrderFree(Policy):
    """Passages that see the prompt's beginning and themselves, at the same positions with the same marker: their order is no matter."""

    mask: ClassVar[Mask] = "block"
    positions: ClassVar[Positions] = "shared"
    marker: ClassVar[str] = CONSTANT_MARKER

    def order(self, n: int) -> Order:
        return None


class BlockICR(_OrderFree):
    """ICR without order; ours. What ICR takes from the first stage's order by accident is taken from its scores on purpose (``fusion``).

    - Rows, calibration, filter: ICR's. Heads: the ``top`` by ``measure`` of a head set's file, of published heads (``"14-22,13-16"`` or
      a file), of the set that comes with the model ("shipped"), or of that one where there is one ("auto"); None: all.
    - Mask and positions: each passage sees the prompt's beginning and itself, all stand at the same positions with the same marker, the
      query at a fixed distance. So a passage's keys and values and its distance to the query do not depend on the others; the former can
      be computed once for all queries. The score does: passages share out one softmax, and the query's rows have read them all in the
      layers below.
    """

    kind: Literal["BlockICR"] = "BlockICR"
    fusion: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    heads: str | None = "auto"
    top: Annotated[int, Field(ge=1)] = 8
    measure: Measure = "ndcg"

    def heads_in(self, lm: str) -> Heads:
        return None if self.heads is None else chosen(self.heads, lm, self.measure, self.top, self.mask)


class QRHead(_Listwise):
    """Query-focused retrieval heads: Zhang et al. 2025, arXiv 2506.09944; princeton-pli/QRHead.

    - Rows, calibration, filter, mask, positions, order: ICR's, in their code too: heads are summed, then a passage's tokens below its mean
      less 2 standard deviations are left out.
    - Heads: the ``top`` by ``measure`` on another collection (``rerankers.detect``): ``qrhead_ndcg`` as they choose them for search,
      ``qrhead_score`` as for long-context question answering. ``heads`` is also a file of theirs, or ``"14-22,13-16"``.

    Departs: their code cuts passages after 400 words for BEIR (``max_words``), and only for BEIR puts the best last.
    """

    kind: Literal["QRHead"] = "QRHead"
    separator: str = PUBLISHED
    heads: str = "shipped"
    top: Annotated[int, Field(ge=1)] = 16
    measure: Measure = "qrhead_ndcg"

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, self.measure, self.top, self.mask)


class CoRe(_Listwise):
    """Contrastive retrieval heads: Tran et al. 2025, arXiv 2510.02219; linhhtran/CoRe-Reranking.

    - Rows: instruction, query, and one token of what ends the turn. Heads: the ``top`` that best tell a relevant passage from hard
      negatives (``core_score``, see ``rerankers.detect``); ``heads`` is also a file of theirs.
    - Calibration: "N/A"'s attention is subtracted when scoring (not in detection). Filter: ICR's, after summing the heads.
    - Prompt: ``[document i] text``, an empty line between. A passage's span begins after the marker and has one token of the separator.
    - Mask and positions: causal, one after the other, in the first stage's order as their code takes it: the best first.

    Departs: a passage has its title (theirs is text only).
    """

    kind: Literal["CoRe"] = "CoRe"
    separator: str = "\n\n"
    first: Literal["best-last", "best-first"] = "best-first"
    heads: str = "shipped"
    top: Annotated[int, Field(ge=1)] = 8

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, "core_score", self.top, self.mask)

    def form(self, lm: str, query: str, max_words: int = 300, turn: tuple[str, str] | None = None) -> Format:
        return CoReFormat(separator=self._separator_in(lm), max_words=max_words, turn=turn)

    def rows(self, lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> list[Span] | None:
        after = len(form.end_of_turn(lm))
        return [(0, min(len(suffix) - after + 1, len(suffix))) for suffix in suffixes]

    def _scored(self, lm: LanguageModel, prompt: Prompt) -> Scored:
        longer = [(start, min(stop + 1, len(prompt.ids)) if stop else 0) for start, stop in prompt.spans]
        return super()._scored(lm, replace(prompt, spans=longer))


class LayerBand(_Listwise):
    """Selective-ICR: Chen et al. 2026, arXiv 2602.22591 (after the paper's text; their code was not compared).

    ICR's rows, calibration, filter, mask, positions and order; heads: all of the middle layers, from the share ``start`` of the depth up
    to ``stop``. Departs: the two shares are ours, the same for every model.
    """

    kind: Literal["LayerBand"] = "LayerBand"
    start: Annotated[float, Field(ge=0, lt=1)] = 0.4
    stop: Annotated[float, Field(gt=0, le=1)] = 0.7

    def heads_in(self, lm: str) -> Heads:
        from ..rag.lm import describe

        info = describe(lm)
        layers = range(round(self.start * info.layers), round(self.stop * info.layers))
        if not layers:
            raise ConfigError(f"no layer of {info.layers} lies between {self.start} and {self.stop}", where="LayerBand",
                              hint="set stop further above start")
        return [(layer, head) for layer in layers for head in range(info.heads)]


class BlockRank(_OrderFree):
    """BlockRank's score: Gupta et al. 2025, arXiv 2510.05396; nilesh2797/BlockRank. How the last two tokens share their attention out.

    - Prompt: the instruction with the query, then passages as ``ID: i | CONTENT: ... | END ID: i``, then the query again and the
      answer begun, ``Final Answer: [``.
    - Rows: the prefilled ``[`` and the token before it. Heads: all of one layer, at the share ``depth`` of the layers (20 of 32, from 0).
    - Score: the softmax over passage tokens only, summed over a passage's, mean over rows and heads (the authors divide by .05, which
      changes no order). No calibration, no filter.
    - Mask and positions: a passage sees the instruction block and itself, all begin where that ends; the query's block stands at
      ``position``, None: at 16,384, or half of the window where that is less.

    The model is not trained for it, which in the paper it is: expect little of one that is not. Departs: passages are numbered from the
    shortest on (theirs are shuffled by a seed), cut by ``max_words`` (theirs after 384 tokens), and begin with "title, line break".
    ``separator`` has no effect. Passages depend on the query, so they cannot come from a ``cache`` or be shared with a reader.
    """

    kind: Literal["BlockRank"] = "BlockRank"
    calibration: None = None
    deviations: None = None
    depth: Annotated[float, Field(ge=0, lt=1)] = 0.625
    position: Annotated[int, Field(ge=1)] | None = None

    query_first: ClassVar[bool] = True

    def heads_in(self, lm: str) -> Heads:
        from ..rag.lm import describe

        info = describe(lm)
        return [(int(self.depth * info.layers), head) for head in range(info.heads)]

    def form(self, lm: str, query: str, max_words: int = 300, turn: tuple[str, str] | None = None) -> Format:
        return BlockRankFormat(max_words=max_words, turn=turn, query=query)

    def suffixes(self, lm: LanguageModel, form: Format, task: Task, query: str) -> list[list[int]]:
        assert isinstance(form, BlockRankFormat)
        return [form.answer_begun(lm)]

    def rows(self, lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> list[Span] | None:
        return [(len(suffix) - 2, len(suffix)) for suffix in suffixes]

    def suffix_at(self, lm: LanguageModel) -> int | None:
        return self.position or min(16_384, lm.window // 2)

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        prompt = lay(None)
        heads = self.heads_in(lm.info.name) or []
        layer = heads[0][0]
        context = prompt.context if not isinstance(prompt.context, list) else lm.prefill(
            prompt.context, blocks=prompt.blocks, mask=prompt.mask, positions=prompt.positions, last=layer)
        shares = np.zeros(n)
        for row in range(*(prompt.rows or [])[0]):  # one row a time: each has its own softmax
            paid = lm.head_scores(context, prompt.suffixes, prompt.spans, layers=layer + 1, query_rows=[(row, row + 1)],
                                  after=prompt.after)[layer]
            total = np.sort(paid.astype(np.float64), axis=1).sum(axis=1, keepdims=True)  # sorted: the same in any order
            shares += (paid / total).mean(axis=0) / 2
        mass = lm.attention_mass(context, prompt.suffixes, heads=heads, query_rows=prompt.rows, after=prompt.after)
        return Scored(shares.astype(np.float32), mass, prompt)


class AttentionSorting(Policy):
    """Attention Sorting: Peysakhovich and Lerer 2023, arXiv 2310.01427 (after the paper's text). Sort the passages by the attention that
    the answer's first token pays them, most last, and do so again, ``rounds`` times: attention favours what is near, so each round is
    harder on its winner.

    Rows: the last one, from which the answer's first token comes. Heads: all, summed. No calibration, no filter. Mask and positions:
    causal, one after the other. Departs: the prompt is ICR's.
    """

    kind: Literal["AttentionSorting"] = "AttentionSorting"
    calibration: None = None
    deviations: None = None
    rounds: Annotated[int, Field(ge=1)] = 2

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        order = list(range(n - 1, -1, -1))
        for _ in range(self.rounds):
            prompt = lay(order)
            last = len(prompt.suffixes[0])
            mass = lm.attention_mass(prompt.context, prompt.suffixes, query_rows=[(last - 1, last)])
            scores = _summed(mass, prompt, None)
            order = [int(p) for p in np.argsort(scores, kind="stable")]
        return Scored(scores, mass, prompt)


AnyPolicy = Annotated[
    ICR | BlockICR | QRHead | CoRe | LayerBand | BlockRank | AttentionSorting, Field(discriminator="kind"),
]
POLICIES: dict[str, type[Policy]] = {p.__name__: p for p in (ICR, BlockICR, QRHead, CoRe, LayerBand, BlockRank, AttentionSorting)}


def named(lm: str, family: str) -> bool:
    """Whether ``family`` is in the name of model ``lm`` (of the file or folder, for a path): how the authors' code tells models apart."""
    return family in PurePath(lm).name.lower()


def prompt_of(
    policy: Policy, lm: LanguageModel, form: Format, passages: Sequence[Passage], order: Order, task: Task, query: str, *, where: str,
) -> Prompt:
    """``policy``'s prompt for ``query``, as token ids."""
    suffixes = policy.suffixes(lm, form, task, query)
    laid = lay_out(lm, form, passages, order, suffixes, policy.mask, policy.positions, where=where,
                   after=policy.suffix_at(lm))
    return replace(laid, rows=policy.rows(lm, form, suffixes))


def _joined(settled: Sequence[tuple[Scored, list[int]]], n: int) -> Scored:
    """Windows, the worst first, with what each settled, as one: their contexts one after the other, each passage where it was settled."""
    scores, spans = np.zeros(n, dtype=np.float32), [(0, 0)] * n
    floor: float | None = None
    for scored, passages in reversed(settled):
        lowered = 0.0 if floor is None else floor - 1 - float(scored.scores[passages].max())
        scores[passages] = scored.scores[passages] + lowered
        floor = float(scores[passages].min())
    ids: list[int] = []
    for scored, passages in settled:
        for p in passages:
            start, stop = scored.prompt.spans[p]
            spans[p] = (len(ids) + start, len(ids) + stop)
        ids += scored.prompt.ids
    prompts = [scored.prompt for scored, _ in settled]
    suffixes = [suffix for prompt in prompts for suffix in prompt.suffixes]
    joined = Prompt(ids, [], spans, suffixes, prompts[0].mask, prompts[0].positions,
                    cut=sum(prompt.cut for prompt in prompts))
    return Scored(scores, np.concatenate([scored.mass for scored, _ in settled]), joined)


def _summed(mass: NDArray[np.float32], prompt: Prompt, deviations: float | None) -> Scores:
    """Each passage's mass, float32 [passages], without low outliers."""
    if deviations is None:
        return np.array([mass[start:stop].sum(dtype=np.float64) for start, stop in prompt.spans], dtype=np.float32)
    import torch

    from ..kernels.span_filter_sum import span_filter_sum

    scores: Scores = span_filter_sum(torch.from_numpy(mass), prompt.spans, deviations=deviations).numpy()
    return scores


def fused(attention: Scores, first_stage: Scores, weight: float) -> Scores:
    """The weighted sum of both, each brought to mean 0 and standard deviation 1 over the candidates (all 0 where they are equal)."""
    both = weight * _standard(attention) + (1 - weight) * _standard(first_stage)
    return both.astype(np.float32)


def _standard(scores: Scores) -> NDArray[np.float64]:
    exact = scores.astype(np.float64)
    spread = exact.std()
    return (exact - exact.mean()) / spread if spread > 0 else np.zeros(len(exact))
