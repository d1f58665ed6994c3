"""Sections of Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ...rag.parts import Count
from ..corpus.limits import Limits
from ..corpus.markdown import Heading
from ..corpus.parsing import parse
from .budgeted import Budgeted
from .packing import pack, units
from .spans import Piece


class Markdown(Budgeted):
    """One passage a section (a heading with its text up to the next heading); a section over the budget is packed by
    sentences.

    ``metadata["section"]`` is the path of headings, ``"Guide > Install"``. A heading without text of its own joins its
    first subsection.
    """

    budget: Count = 300

    def pieces(self, text: str, limits: Limits) -> Iterator[Piece]:
        tokens = self.tokens(text)
        for (start, end), path in _sections(text, limits):
            spans = [(start, end)]
            if tokens.count(start, end) > self.budget:
                spans = pack(units(text, start, end, tokens, self.budget), tokens, self.budget, self.overlap)
            yield from ((span, path) for span in spans)


def _sections(text: str, limits: Limits) -> Iterator[Piece]:
    """``(span, path of headings)``: what precedes the first heading, then section by section."""
    marks = [Heading(*fields) for fields in parse("headings", text.encode("utf-8", "surrogatepass"), limits)]
    if not marks or marks[0].start > 0:
        yield (0, marks[0].start if marks else len(text)), ""
    path: list[tuple[int, str]] = []
    begin: int | None = None
    for number, mark in enumerate(marks):
        path = [*((level, name) for level, name in path if level < mark.level), (mark.level, mark.text)]
        following = marks[number + 1] if number + 1 < len(marks) else None
        end = following.start if following else len(text)
        begin = mark.start if begin is None else begin
        if following and following.level > mark.level and not text[mark.end:end].strip():
            continue
        yield (begin, end), " > ".join(name for _, name in path)
        begin = None
