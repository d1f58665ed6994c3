"""What one commit of a store holds, and the hashes by which a job knows what is stored already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...rag.models.encoding import Vectors
from ...rag.nouns import Document, Passage

Contents = NDArray[np.int64]
"""[n, 2]: the two halves of each passage's content hash."""


def document_hash(document: Document) -> bytes:
    """16 bytes that change whenever the document does."""
    content = json.dumps([document.text, document.title, document.metadata], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def content_hash(passage: Passage) -> bytes:
    """16 bytes of what an encoder reads: passages with the same hash have the same vector."""
    return hashlib.blake2b(passage.full_text.encode(), digest_size=16).digest()


@dataclass(slots=True)
class Changes:
    """What one commit writes: passages, the hash of each one's document, and their vectors by encoder name."""

    passages: list[Passage] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    vectors: dict[str, Vectors] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    """Documents whose older passages this commit removes."""

    characters: int = 0

    def add(self, passages: Sequence[Passage], document: bytes) -> None:
        """The passages of one document, whose hash is ``document``."""
        self.passages += passages
        self.hashes += [document] * len(passages)
        self.characters += sum(len(passage.text) for passage in passages)

    def __len__(self) -> int:
        return len(self.passages)

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.passages or self.replaced)


def joined(parts: Sequence[Changes]) -> Changes:
    """The changes of all ``parts``, in order."""
    vectors = {name: np.concatenate([part.vectors[name] for part in parts])
               for name in (parts[0].vectors if parts else ())}
    return Changes([p for part in parts for p in part.passages], [h for part in parts for h in part.hashes], vectors,
                   [name for part in parts for name in part.replaced], sum(part.characters for part in parts))
