"""Chunkers: documents to passages with exact character spans. A file a kind; a new one is one file and a line in the
table.

Lives here: ``chunker`` (what all have), the kinds themselves; ``budgeted`` (those with a token budget), ``packing``
(text units into a budget), ``token_starts`` (counting tokens), ``spans`` (spans of a text to passages).
"""

from typing import TYPE_CHECKING

from ...rag.tables import lazy

if TYPE_CHECKING:
    from .chunker import Chunker
    from .markdown import Markdown
    from .sentences import Sentences
    from .tokens import Tokens
    from .whole import Whole

CHUNKERS = {
    "Markdown": ".markdown:Markdown",
    "Sentences": ".sentences:Sentences",
    "Tokens": ".tokens:Tokens",
    "Whole": ".whole:Whole",
}
__all__ = ["Chunker", "Markdown", "Sentences", "Tokens", "Whole"]
__getattr__ = lazy(__name__, CHUNKERS, {"Chunker": ".chunker:Chunker"})
