"""Units of text (sentences) packed into passages of a token budget."""

from __future__ import annotations

from collections.abc import Sequence

from ...rag.text import Span, sentence_spans
from .spans import stripped
from .token_starts import TokenStarts


def units(text: str, start: int, end: int, tokens: TokenStarts, budget: int) -> list[Span]:
    """The sentences of ``text[start:end]``, those over the budget cut at token borders."""
    found: list[Span] = []
    for a, b in sentence_spans(text[start:end]):
        left, right = start + a, start + b
        while left < right:
            border = tokens.border(left, right, budget)
            found.append((left, border))
            left = border
    return stripped(text, found)


def pack(units: Sequence[Span], tokens: TokenStarts, budget: int, overlap: int) -> list[Span]:
    """Greedy: as many units as the budget holds; then step back over trailing units that fit the overlap and leave room
    for a new one."""
    spans: list[Span] = []
    first = 0
    while first < len(units):
        after = first + 1
        while after < len(units) and tokens.count(units[first][0], units[after][1]) <= budget:
            after += 1
        spans.append((units[first][0], units[after - 1][1]))
        if after == len(units):
            break
        first, begun = after, first
        while first - 1 > begun and _repeats(units, first - 1, after, tokens, budget, overlap):
            first -= 1
    return spans


def _repeats(units: Sequence[Span], first: int, after: int, tokens: TokenStarts, budget: int, overlap: int) -> bool:
    start = units[first][0]
    return tokens.count(start, units[after - 1][1]) <= overlap and tokens.count(start, units[after][1]) <= budget
