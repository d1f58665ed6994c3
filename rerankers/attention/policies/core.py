"""Contrastive retrieval heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ....rag.lm.heads import Heads, chosen
from ....rag.lm.passages import Block, Format, Prompt, shown
from ....rag.parts import Card, Count
from ....rag.text import Span
from .listwise import Listwise
from .policy import Scored

if TYPE_CHECKING:
    from ....rag.lm import LanguageModel
    from ....rag.nouns import Passage


class CoRe(Listwise):
    """Contrastive retrieval heads: the few that tell a relevant passage from hard negatives.

    - Rows: instruction, query, and one token of what ends the turn. Heads: the ``top`` by ``core_score`` (see
      ``rerankers.attention.detect``); ``heads`` is also a file of theirs.
    - Calibration: "N/A"'s attention is subtracted when scoring (not in detection). Filter: ICR's, after summing the
      heads.
    - Prompt: ``[document i] text``, an empty line between. A passage's span begins after the marker and has one token
      of the separator.
    - Mask and positions: causal, one after the other, in the first stage's order as their code takes it: the best
      first.
    """

    card = Card("Tran et al.", 2025, arxiv="2510.02219", code="linhhtran/CoRe-Reranking",
                note="a passage has its title (theirs is text only)")

    separator: str = "\n\n"
    first: Literal["best-last", "best-first"] = "best-first"
    heads: str = "shipped"
    top: Count = 8

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, "core_score", self.top, self.mask)

    def form(self, lm: str, query: str, max_words: int = 300, turn: tuple[str, str] | None = None) -> Format:
        return CoReFormat(separator=self._separator_in(lm), max_words=max_words, turn=turn)

    def rows(self, lm: LanguageModel, form: Format, suffixes: Sequence[Sequence[int]]) -> list[Span] | None:
        after = len(form.end_of_turn(lm))
        return [(0, min(len(suffix) - after + 1, len(suffix))) for suffix in suffixes]

    def scored(self, lm: LanguageModel, prompt: Prompt) -> Scored:
        longer = [(start, min(stop + 1, len(prompt.ids)) if stop else 0) for start, stop in prompt.spans]
        return super().scored(lm, replace(prompt, spans=longer))


@dataclass(frozen=True, slots=True)
class CoReFormat(Format):
    """CoRe's: ``[document 1] text``, of which the marker is not scored."""

    marker: str = "[document {i}]"
    separator: str = "\n\n"

    def blocks(self, lm: LanguageModel, passages: Sequence[Passage]) -> list[Block]:
        texts = [" " + shown(passage, self.max_words) for passage in passages]
        markers = lm.tokens_of([self.marker.replace("{i}", str(i)) for i in range(1, len(texts) + 1)])
        end = lm.tokens(self.separator)
        return [Block(text, ids, end, start=tuple(marker))
                for text, ids, marker in zip(texts, lm.tokens_of(texts), markers, strict=True)]
