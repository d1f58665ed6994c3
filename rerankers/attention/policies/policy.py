"""What all policies have: which attention counts, under which mask, and how it becomes a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ....rag.lm.heads import Heads
from ....rag.lm.passages import Format, Prompt, lay_out
from ....rag.lm.prefill import Mask, Positions
from ....rag.nouns import Passage, Scores
from ....rag.parts import Part, Share
from ....rag.text import Span
from .scores import summed

if TYPE_CHECKING:
    from ....rag.lm import LanguageModel

INSTRUCTIONS = {  # the grammar is its authors'
    "search": "Please find information that are relevant to the following query in the paragraphs above.",
    "qa": "Please answer the following question based on the information in the paragraphs above.",
}
Task = Literal["search", "qa"]

Order = Sequence[int] | None
Lay = Callable[[Order], Prompt]
"""Puts the candidates into a prompt in this order, without those it leaves out; None: in one that does not depend on
the order they come in."""

PUBLISHED = "published"
"""As a separator: that of ICR's and QRHead's code."""


@dataclass(frozen=True, slots=True)
class Scored:
    """``scores`` float32 [passages], in the ranking's order; ``mass`` float32 [context], what each token of ``prompt``
    contributed."""

    scores: Scores
    mass: NDArray[np.float32]
    prompt: Prompt


class Policy(Part):
    """Settings that all policies have.

    - ``calibration``: the content-free query whose attention is subtracted; None for uncalibrated scores.
    - ``separator``: between passages. ``"published"`` is that of ICR's and QRHead's code: ``" \\n\\n"`` for models
      named Llama (their tokenizer joins a full stop with the line breaks after it), ``"\\n\\n"`` for all others.
    - ``deviations``: a passage's tokens this many standard deviations below its mean do not count; None counts all.
    - ``fusion``: None gives the attention's score alone. A weight w from 0 to 1 gives w * attention + (1 - w) * first
      stage, each brought to mean 0 and standard deviation 1 over the candidates.
    """

    group = "regard.policies"

    calibration: str | None = "N/A"
    separator: str = "\n"
    deviations: Annotated[float, Field(ge=0)] | None = 2.0
    fusion: Share | None = None

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
        """The position where the suffixes begin, for passages at shared positions; None:
        ``rag.lm.passages.suffix_position``."""
        return None

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        """Rank ``n`` candidates, by default as ICR does."""
        return self.scored(lm, lay(self.order(n)))

    def scored(self, lm: LanguageModel, prompt: Prompt) -> Scored:
        """What the heads pay to a prompt's passages, calibrated and without low outliers."""
        mass = lm.attention_mass(
            prompt.context, prompt.suffixes, heads=self.heads_in(lm.info.name), mask=prompt.mask,
            positions=prompt.positions, blocks=prompt.blocks, weights=[1.0, -1.0][:len(prompt.suffixes)],
            query_rows=prompt.rows, after=prompt.after)
        return Scored(summed(mass, prompt, self.deviations), mass, prompt)

    def _separator_in(self, lm: str) -> str:
        if self.separator != PUBLISHED:
            return self.separator
        return " \n\n" if named(lm, "llama") else "\n\n"


def named(lm: str, family: str) -> bool:
    """Whether ``family`` is in the name of model ``lm`` (of the file or folder, for a path): how the authors' code
    tells models apart."""
    return family in PurePath(lm).name.lower()


def prompt_of(
    policy: Policy, lm: LanguageModel, form: Format, passages: Sequence[Passage], order: Order, task: Task,
    query: str, *, where: str,
) -> Prompt:
    """``policy``'s prompt for ``query``, as token ids."""
    suffixes = policy.suffixes(lm, form, task, query)
    laid = lay_out(lm, form, passages, order, suffixes, policy.mask, policy.positions, where=where,
                   after=policy.suffix_at(lm))
    return replace(laid, rows=policy.rows(lm, form, suffixes))
