"""Markdown headings with their character positions, through markdown-it-py (CommonMark)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

_LINE_END = re.compile(r"\r\n?|\n")  # what markdown-it-py counts as a line
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)(?<=\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*(\S.*)$", re.MULTILINE)
_INLINE = 1000


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading's level (1 to 6), its text without markup, and the half-open character span of its lines."""

    level: int
    text: str
    start: int
    end: int


def headings(text: str) -> list[Heading]:
    """The headings at the top level of the document (not those inside quotes and lists), in order. YAML front matter
    holds none.

    Of inline markup only what headings hold is read, and of each no more than 1,000 characters: links and emphasis can
    take the square of a line's length.
    """
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    body = text[offset:]
    line_starts = [0, *(match.end() for match in _LINE_END.finditer(body)), len(body)]
    parser, references = MarkdownIt("commonmark").disable("inline"), dict[str, Any]()
    found: list[Heading] = []
    for token, inline in itertools.pairwise(parser.parse(body, references)):
        if token.type == "heading_open" and token.level == 0 and token.map is not None:
            start, end = (offset + line_starts[min(line, len(line_starts) - 1)] for line in token.map)
            pieces: list[Any] = []
            parser.inline.parse(inline.content[:_INLINE], parser, references, pieces)
            plain = "".join(piece.content for piece in pieces if piece.type in ("text", "text_special", "code_inline"))
            found.append(Heading(int(token.tag[1]), plain.strip(), start, end))
    return found


def title(text: str) -> str:
    """The front matter's ``title``, else the first heading, else nothing."""
    front = _FRONT_MATTER.match(text)
    named = _TITLE.search(front.group(1)) if front else None
    if named:
        return named.group(1).strip().strip("\"'")
    return next((heading.text for heading in headings(text) if heading.text), "")
