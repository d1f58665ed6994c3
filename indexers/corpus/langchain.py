"""LangChain's documents as a corpus. The library itself is not needed: whoever made the documents has it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from ...rag.nouns import Document


def one_from_langchain(document: Any, seen: Counter[str]) -> Document:
    """One document of a stream; ``seen`` counts the stream's sources.

    The id is the document's own, else its ``source`` metadata, else a hash of its text. Where several documents of a
    stream share a source (the pages of a PDF), the second is ``SOURCE#2``, and so on. ``title`` is taken from the
    metadata.
    """
    metadata: dict[str, Any] = dict(document.metadata)
    identity, source = document.id, metadata.get("source")
    if identity is None and source:
        seen[str(source)] += 1
        identity = f"{source}#{seen[str(source)]}" if seen[str(source)] > 1 else str(source)
    identity = identity or hashlib.blake2b(document.page_content.encode(), digest_size=12).hexdigest()
    return Document(str(identity), document.page_content, str(metadata.pop("title", "") or ""), metadata)
