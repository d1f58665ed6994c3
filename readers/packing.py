"""Which passages of a ranking fit a reader's budget of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..rag.nouns import Passage
from ..rag.text import sentence_spans

Size = Callable[[str], int]
"""The number of tokens of a text."""

Cost = Callable[[Passage], int]
"""The number of tokens that a passage takes of a prompt."""

BETWEEN = "\n\n"
"""Stands after every passage of a prompt."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The passages that fit, best first, as they are shown; ``dropped`` is the number that are not."""

    passages: tuple[Passage, ...]
    dropped: int


def shown(passage: Passage) -> str:
    """The passage as a reader sees it: its title, if any, as a heading."""
    return f"## {passage.title}\n\n{passage.text}" if passage.title else passage.text


def pack(passages: Sequence[Passage], budget: int, size: Size, between: str = BETWEEN) -> Packed:
    """Take passages whole, best first, while they fit ``budget`` tokens; one that does not fit is left out, a smaller
    one tried.

    A passage longer than the whole budget could never be shown, so it is cut at the last sentence end that fits what is
    left (the best one at a word, if not even its first sentence fits); its span is that of the part that is shown.
    ``between`` stands after each.
    """
    after = size(between)

    def shown_in(passage: Passage) -> int:
        return size(shown(passage)) + after

    taken: list[Passage] = []
    left = budget
    for passage in passages:
        cost = shown_in(passage)
        fitting: Passage | None = passage
        if cost > left:
            fitting = _cut(passage, left, shown_in, at_words=not taken) if cost > budget else None
        if fitting is not None:
            taken.append(fitting)
            left -= shown_in(fitting)
    return Packed(tuple(taken), len(passages) - len(taken))


def _cut(passage: Passage, room: int, cost: Cost, *, at_words: bool) -> Passage | None:
    """The longest beginning of ``passage`` that costs at most ``room``, or None when there is none."""
    ends = [end for _, end in sentence_spans(passage.text)]
    cut = _longest(passage, ends, room, cost)
    if cut is None and at_words:
        cut = _longest(passage, _word_ends(passage.text), room, cost)
    return cut


def _longest(passage: Passage, ends: Sequence[int], room: int, cost: Cost) -> Passage | None:
    def beginning(end: int) -> Passage:
        return replace(passage, text=passage.text[:end], end=passage.start + end)

    fitting = bisect_right(ends, room, key=lambda end: cost(beginning(end)))
    return beginning(ends[fitting - 1]) if fitting else None


def _word_ends(text: str) -> list[int]:
    return [i for i in range(1, len(text)) if text[i].isspace() and not text[i - 1].isspace()]
