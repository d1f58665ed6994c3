"""Documents as they are."""

from __future__ import annotations

from ...rag.nouns import Document, Passage
from ..corpus.limits import Limits
from .chunker import DEFAULT_LIMITS, Chunker
from .spans import stripped


class Whole(Chunker):
    """One passage a document, under the document's own id; surrounding white space is left out."""

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        spans = stripped(document.text, [(0, len(document.text))])
        for start, end in spans:
            if end - start > limits.passage_characters:
                raise limits.over(f"a passage of {end - start:,} characters (every chunker but whole cuts it)",
                                  "passage_characters")
        return [
            Passage(document.id, document.id, document.text[start:end], start, end, document.title, document.metadata)
            for start, end in spans
        ]
