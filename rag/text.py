"""Sentences and words with their character spans: one definition for chunking, citing and scoring answers."""

from __future__ import annotations

import re

Span = tuple[int, int]
"""Half-open: of characters, or of tokens."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n\s*\n+|(?<=[。！？])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|approx|dr|mr|mrs|ms|prof|st|no|fig|figs|eq|sec|vol|ed|eds|inc|ltd|jr|sr|resp|ca)"
    r"|(?<!\w)[A-Za-z])\.$", re.IGNORECASE,
)


def sentence_spans(text: str) -> list[Span]:
    """Half-open character spans of the sentences of ``text``; between them lies nothing but white space.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space, or at a blank line; not after a common
    abbreviation or a single initial, and not before a lower-case letter.
    """
    spans: list[Span] = []
    start = 0
    for match in _BREAK.finditer(text):
        paragraph = "\n" in match.group().strip(" \t\"'”’)]") and match.group().count("\n") > 1
        end = match.end()
        if not paragraph:
            tail = text[max(start, match.start() - 16):match.start()]
            follows = text[end:end + 1]
            if follows.islower() or _ABBREVIATION.search(tail):
                continue
        _append(spans, text, start, end)
        start = end
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        left = start + len(piece) - len(piece.lstrip())
        spans.append((left, left + len(stripped)))


def words(text: str) -> list[str]:
    """Lower-cased words of ``text``."""
    return [m.group().lower() for m in _WORD.finditer(text)]
