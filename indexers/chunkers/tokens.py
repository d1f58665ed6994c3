"""Windows of so many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from ...rag.parts import Count
from ...rag.text import Span
from .budgeted import Budgeted


class Tokens(Budgeted):
    """Windows of ``budget`` tokens, each starting ``budget - overlap`` tokens after the one before. Borders may fall
    inside words."""

    budget: Count = 128
    overlap: Annotated[int, Field(ge=0)] = 16

    def spans(self, text: str) -> Iterator[Span]:
        tokens = self.tokens(text)
        start = 0
        while start < len(text):
            end = tokens.border(start, len(text), self.budget)
            yield start, end
            if end == len(text):
                break
            back = int(tokens.starts[max(tokens.before(end) - self.overlap, 0)])
            # tokens that share a start move together: no overlap where stepping back would not pass this window's end
            start = back if tokens.border(back, len(text), self.budget) > end else end
