"""Source texts and the passages that are cut from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .plain import UNLESS_EMPTY, PlainNoun, parsed

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Media(PlainNoun):
    """What stands beside a text: its kind (``"image"``, ``"audio"``, ``"table"``), where it is, and a hash of its
    content; never bytes."""

    kind: str
    uri: str
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Document(PlainNoun):
    """What a corpus reader yields: one source text with its identity."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage(PlainNoun):
    """A chunk of a document; ``text == document.text[start:end]``, offsets in characters."""

    id: str
    document_id: str
    text: str
    start: int
    end: int
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    media: tuple[Media, ...] = field(default=(), metadata=UNLESS_EMPTY)

    @property
    def full_text(self) -> str:
        """What encoders, BM25 and cross-encoders read: the title, a line break, the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        with parsed(cls, data):
            held = {"media": tuple(map(Media.from_dict, data["media"]))} if "media" in data else {}
            return super(Passage, cls).from_dict({**data, **held})
