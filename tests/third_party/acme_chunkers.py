"""A chunker of somebody else, in the table of their distribution."""

from __future__ import annotations

import re
from collections.abc import Iterator

from regard.indexers.chunkers import Chunker
from regard.rag.parts import Count
from regard.rag.text import Span

CHUNKERS = {"Paragraphs": "acme_chunkers:Paragraphs"}


class Paragraphs(Chunker):
    """``together`` paragraphs a passage."""

    together: Count = 1

    def spans(self, text: str) -> Iterator[Span]:
        borders = [0, *(blank.end() for blank in re.finditer(r"\n\s*\n", text)), len(text)]
        starts = borders[:-1:self.together]
        yield from zip(starts, [*starts[1:], len(text)], strict=True)
