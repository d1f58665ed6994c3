"""Spans of a document's text to passages: exact, without surrounding white space, within the limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...rag.nouns import Document, Passage
from ...rag.text import Span
from ..corpus.limits import Limits

Piece = tuple[Span, str]
"""A span, and the path of the section that it is from (``"Guide > Install"``); empty where it has none."""


def stripped(text: str, spans: Iterable[Span]) -> list[Span]:
    """The spans without surrounding white space; those with nothing else are left out."""
    kept: list[Span] = []
    for start, end in spans:
        piece = text[start:end]
        inner = piece.strip()
        if inner:
            left = start + len(piece) - len(piece.lstrip())
            kept.append((left, left + len(inner)))
    return kept


def passages(document: Document, pieces: Sequence[Piece], limits: Limits) -> list[Passage]:
    """The passages of ``pieces``, numbered; ``metadata["section"]`` is a piece's section. Raises ``Unreadable`` over
    ``limits``."""
    text = document.text
    cut = [(span, path) for whole, path in pieces for span in stripped(text, _cut(text, whole, limits))]
    repeated = limits.repeated_characters(document)
    stored = sum(end - start + repeated + len(path) for (start, end), path in cut)
    if stored > limits.stored_characters:
        raise limits.over(f"passages of {stored:,} characters together", "stored_characters")
    return [
        Passage(f"{document.id}#{number}", document.id, text[start:end], start, end, document.title,
                {**document.metadata, "section": path} if path else document.metadata)
        for number, ((start, end), path) in enumerate(cut)
    ]


def _cut(text: str, span: Span, limits: Limits) -> list[Span]:
    """``span`` in pieces of at most ``passage_characters``; where there is a space near the end of one, it is cut
    there."""
    longest, (start, end) = limits.passage_characters, span
    pieces: list[Span] = []
    while end - start > longest:
        space = text.rfind(" ", start + longest - longest // 10, start + longest)
        border = space if space > start else start + longest
        pieces.append((start, border))
        start = border
    return [*pieces, (start, end)]
