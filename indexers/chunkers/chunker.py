"""What all chunkers have: a chunker cuts a document's text into passages.

    class Lines(Chunker):
        blank: bool = False

        def spans(self, text: str) -> Iterator[Span]:
            for line in re.finditer(r"\\n{2,}|.+" if self.blank else r".+", text):
                yield line.span()
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from ...rag.errors import ConfigError
from ...rag.nouns import Document, Passage
from ...rag.parts import Part, plain, text_of
from ...rag.text import Span
from ..corpus.limits import Limits
from .spans import Piece, passages

DEFAULT_LIMITS = Limits()


class Chunker(Part):
    """Cuts documents. Making one loads nothing; a tokenizer is read with the first document.

    A kind says where passages lie (``spans``), or also from which section each is (``pieces``). Every passage's text is
    ``document.text[start:end]``, without surrounding white space.
    """

    group = "regard.chunkers"

    lossless: ClassVar[bool] = True
    """Whether nothing but white space lies outside the passages; a kind that leaves text out says that it does not
    hold."""

    model_settings: ClassVar[tuple[str, ...]] = ()
    """The settings that name a model: an embedded one, a folder, or a hub's id. An index from others may not choose it
    (``rag.trust``)."""

    def spans(self, text: str) -> Iterable[Span]:
        """Where the passages of ``text`` lie, in order; they may overlap. What is only white space is left out."""
        raise ConfigError(f"{type(self).__name__} does not say where passages lie", where=self.part_name(),
                          hint="give it a method spans(text)")

    def pieces(self, text: str, limits: Limits) -> Iterable[Piece]:
        """``spans``, each with the path of its section; empty where it has none."""
        return ((span, "") for span in self.spans(text))

    def chunk(self, document: Document, limits: Limits = DEFAULT_LIMITS) -> list[Passage]:
        """The document's passages in order, with its title and metadata; none when it has nothing but white space.

        Raises ``Unreadable`` where they would go over one of ``limits``.
        """
        return passages(document, list(self._inside(document, self.pieces(document.text, limits))), limits)

    @property
    def spec(self) -> str:
        """The text that makes this chunker again, with all settings: an index keeps it, whatever becomes of the
        defaults.

        Raises ``ConfigError`` for a class that is not registered: the index could not be brought up to date.
        """
        name, colon, settings = text_of(self, self._named()).partition(":")
        return f"{name.lower()}{colon}{settings}"

    def identity(self) -> Mapping[str, Any]:
        """What besides the settings decides the passages (a tokenizer's hash), as JSON."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """All that decides the passages, as plain JSON: an index made by another is refused."""
        settings = {name: plain(value) for name, value in self.settings().items()}
        return {"chunker": self.part_name().lower(), "version": self.version, **settings, **self.identity()}

    def _named(self) -> Mapping[str, Any]:
        """The settings that ``spec`` names."""
        return self.settings()

    def _inside(self, document: Document, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Raise ``ConfigError`` for a span that does not lie in the text."""
        for (start, end), path in pieces:
            if not 0 <= start <= end <= len(document.text):
                raise ConfigError(
                    f"a span from {start} to {end}, in a text of {len(document.text)} characters",
                    where=f"{self.part_name()}, document {document.id!r}", hint="this is a fault of the chunker")
            yield (operator.index(start), operator.index(end)), path
