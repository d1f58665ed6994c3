"""Sentences packed to a token budget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ...rag.text import Span
from .budgeted import Budgeted
from .packing import pack, units


class Sentences(Budgeted):
    """Whole sentences packed up to ``budget`` tokens; the next passage repeats trailing sentences of at most
    ``overlap`` tokens.

    A sentence longer than the budget is cut at token borders.
    """

    overlap: Annotated[int, Field(ge=0)] = 40

    def spans(self, text: str) -> Iterable[Span]:
        tokens = self.tokens(text)
        return pack(units(text, 0, len(text), tokens, self.budget), tokens, self.budget, self.overlap)
