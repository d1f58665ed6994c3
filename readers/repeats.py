"""Small models fall into loops under greedy decoding: this ends an answer where it begins to repeat itself."""

from __future__ import annotations

from collections.abc import Callable

from ..rag.text import sentence_spans

SHORTEST = 4
"""Words of a sentence whose second occurrence counts as a loop."""


class Looping(Exception):  # not an error: it stops a generation from inside its on_text callback
    """The answer has said a whole sentence for the second time."""


class RepeatGuard:
    """Takes pieces of text and passes them on, holding back a sentence for as long as it is word for word the beginning of an
    earlier one; raises :class:`Looping` when that sentence is over. What was passed on is then the answer.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._written = ""
        self.text = ""
        """What was passed on."""

    def __call__(self, piece: str) -> None:
        self._written += piece
        earlier: list[str] = []
        *complete, (start, end) = sentence_spans(self._written) or [(0, 0)]
        for a, b in complete:
            if _is_repeat(self._written[a:b], earlier):
                self._pass_on(a)
                raise Looping
            earlier.append(self._written[a:b])
        current = self._written[start:end]
        self._pass_on(start if any(sentence.startswith(current) for sentence in earlier) else len(self._written))

    def finish(self, *, cut: bool) -> str:
        """The whole answer. ``cut``: the generation ended for want of tokens, so a sentence that was held back is no sentence."""
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
