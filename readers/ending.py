"""Where an answer ends before the model ends it (at a stop string, or where a small model begins to repeat itself), and
what is left of one that repeats itself all the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from ..rag.text import sentence_spans
from .citations import LIST_NUMBER, claims

SHORTEST = 4
"""Words of a sentence whose second occurrence counts as a loop."""


class Ended(Exception):  # not an error: it stops a generation from inside its on_text callback
    """The answer has reached a stop string, or has said a whole sentence for the second time; ``finish`` as in
    ``Answer``."""

    def __init__(self, finish: Literal["stop", "repetition"]) -> None:
        super().__init__(finish)
        self.finish = finish


class AnswerGuard:
    """Takes pieces of text and passes them on, holding back what may be a stop string, and a sentence for as long as it
    is word for word the beginning of an earlier one; raises :class:`Ended` when the answer is over. What was passed on
    is then the answer.
    """

    def __init__(self, show: Callable[[str], None], stop: Sequence[str] = ()) -> None:
        self._show = show
        self._stop = stop
        self._written = ""
        self.text = ""
        """What was passed on."""

    def __call__(self, piece: str) -> None:
        self._written += piece
        found = [position for position in map(self._written.find, self._stop) if position >= 0]
        if found:
            self._pass_on(min(found))
            raise Ended("stop")
        earlier: list[str] = []
        *complete, (start, end) = sentence_spans(self._written) or [(0, 0)]
        for a, b in complete:
            if _is_repeat(self._written[a:b], earlier):
                self._pass_on(a)
                raise Ended("repetition")
            earlier.append(self._written[a:b])
        current = self._written[start:end]
        repeats = any(sentence.startswith(current) for sentence in earlier)
        self._pass_on(start if repeats else len(self._written) - self._begun())

    def _begun(self) -> int:
        """How many characters at the end of what is written begin a stop string."""
        return max((n for stop in self._stop for n in range(1, len(stop)) if self._written.endswith(stop[:n])),
                   default=0)

    def finish(self, *, cut: bool) -> str:
        """The whole answer. ``cut``: the generation ended for want of tokens, so a sentence that was held back is no
        sentence."""
        *complete, (start, end) = sentence_spans(self._written) or [(0, 0)]
        held = self._written[start:end] if len(self.text) <= start else ""
        if not (cut and held) and not _is_repeat(held, [self._written[a:b] for a, b in complete]):
            self._pass_on(len(self._written))
        return self.text

    def _pass_on(self, end: int) -> None:
        piece = self._written[len(self.text):end]
        if piece:
            self.text += piece
            self._show(piece)


def _is_repeat(sentence: str, earlier: list[str]) -> bool:
    return sentence in earlier and len(sentence.split()) >= SHORTEST


def without_repeats(text: str) -> str:
    """``text`` without the sentences that it says again: those that repeat an earlier one of at least ``SHORTEST``
    words, or the one just before them, whatever its length. Letter case, spacing and a list item's number make no
    difference; fenced code stays as it is.
    """
    said: list[str] = []
    kept: list[str] = []
    at = 0
    for start, end in claims(text):
        sentence = _normal(text[start:end])
        fenced = text[:start].count("```") % 2 or "```" in text[start:end]
        repeats = sentence in (said if len(sentence.split()) >= SHORTEST else said[-1:])
        if fenced or not repeats:
            kept.append(text[at:end])
            said.append(sentence)
        at = end
    return "".join(kept) + (text[at:] if not text[at:].isspace() else "")


def _normal(sentence: str) -> str:
    return " ".join(re.sub(rf"^{LIST_NUMBER.pattern}\s*", "", sentence).casefold().split())
