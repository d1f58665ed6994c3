"""A reader's prompt: pieces of text, some of which are passages, so that every passage's place in it is known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from ..rag.documents import Context, Passage
from .packing import BETWEEN, Packed, shown

Order = Literal["best-last", "best-first"]

PASSAGES = "{passages}"
QUESTION = "{question}"
"""Where the passages and the question go in an instruction."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user turn: ``pieces`` are what comes before the passages, each passage and the blank line after it, and what follows."""

    pieces: tuple[str, ...]
    passages: tuple[Passage, ...]
    dropped: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def context(self, sizes: Sequence[int], before: int, prompt_tokens: int) -> Context:
        """What was shown: ``sizes`` are the tokens of each piece, ``before`` those ahead of the first."""
        starts = list(accumulate(sizes, initial=before))
        spans = tuple((starts[2 * i + 1], starts[2 * i + 2]) for i in range(len(self.passages)))
        return Context(self.passages, spans, prompt_tokens, self.dropped)


def build(question: str, packed: Packed, order: Order, instruction: str) -> Prompt:
    """``instruction`` is the turn, with ``{passages}`` and ``{question}`` in it; "best-last" puts the best passage at the end."""
    before, _, after = instruction.partition(PASSAGES)
    passages = packed.passages if order == "best-first" else packed.passages[::-1]
    pieces = [piece for passage in passages for piece in (shown(passage), BETWEEN)]
    return Prompt((before.replace(QUESTION, question), *pieces, after.replace(QUESTION, question)), passages, packed.dropped)
