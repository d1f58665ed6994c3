"""A reader's prompt: pieces of text, some of which are passages, so that every passage's place in it is known by
construction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

from ..rag.nouns import Context, Passage
from .packing import BETWEEN, Packed, shown

PassageOrder = Literal["best-last", "best-first"]

PASSAGES = "{passages}"
QUESTION = "{question}"
"""Where the passages and the question go in an instruction."""


@dataclass(frozen=True, slots=True)
class ReaderPrompt:
    """One user turn: ``pieces`` are what comes before the passages, each passage and the blank line after it, and what
    follows."""

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


def boundary(question: str, passages: Sequence[Passage]) -> str:
    """The line that keeps ``passages`` apart where one of them could be taken for more than one passage; empty where
    none could.

    Passages stand between blank lines, under headings, before the question. One that has none of these in it cannot
    pass for anything else, and then no line is drawn, as each costs tokens and small models read plain prompts best.
    Else it is, as between the parts of a MIME message (RFC 2046, 5.1), a line that stands in no passage: it is drawn by
    hashing all that the prompt shows, so another question or other passages draw another, and drawn again for as long
    as it stands in one of them. A random one would be no harder to imitate, as one that is imitated is never used; but
    the same prompt would then have another answer, and nothing could be kept in a cache.
    """
    if not any(_could_be_more(passage, question) for passage in passages):
        return ""
    texts = [question, *(text for passage in passages for text in (passage.title, passage.text))]
    for attempt in count():
        digest = hashlib.blake2b("\0".join([*texts, str(attempt)]).encode("utf-8",
                                                                          "surrogatepass"), digest_size=4).hexdigest()
        if not any(digest in text for text in texts):
            return f"[{digest}]"
    raise AssertionError("no text is endless")


def _could_be_more(passage: Passage, question: str) -> bool:
    """Whether it has a blank line (with what follows it, too), a heading, a title of several lines, or the question in
    it."""
    lines = passage.text.splitlines()
    if len(f"{passage.text}.".splitlines()) > len(lines):  # it ends in a line end
        return True
    asked = " ".join(question.casefold().split())
    return (any(not line.strip() or line.lstrip().startswith("#") for line in lines)
            or len(passage.title.splitlines()) > 1
            or asked in " ".join(f"{passage.title} {passage.text}".casefold().split()))


def after_passage(line: str) -> str:
    """What stands after each passage, and with a boundary before the next."""
    return f"{BETWEEN}{line}\n" if line else BETWEEN


def before_passages(line: str) -> str:
    """What tells the model of a boundary, and the first one."""
    return f"Each passage stands between two lines {line}\n\n{line}\n" if line else ""


def build(question: str, packed: Packed, order: PassageOrder, instruction: str, line: str = "") -> ReaderPrompt:
    """``instruction`` is the turn, with ``{passages}`` and ``{question}`` in it; "best-last" puts the best passage at
    the end. ``line`` is the :func:`boundary`."""
    before, _, after = instruction.partition(PASSAGES)
    passages = packed.passages if order == "best-first" else packed.passages[::-1]
    pieces = [piece for passage in passages for piece in (shown(passage), after_passage(line))]
    beginning = before.replace(QUESTION, question) + before_passages(line)
    return ReaderPrompt((beginning, *pieces, after.replace(QUESTION, question)), passages, packed.dropped)
