"""Chunkers whose passages hold so many tokens at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ...rag.errors import ConfigError
from ...rag.parts import Count
from .chunker import Chunker
from .token_starts import TokenStarts, tokenizer_hash


class Budgeted(Chunker):
    """What the chunkers with a token budget share: ``overlap`` tokens, at most, are repeated from the passage before.

    Tokens are counted as ``tokenizer`` (a model's, or ``words``) counts them in the document as a whole (each document
    is tokenised once), without special tokens and without the title.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("tokenizer",)

    budget: Count = 200
    overlap: Annotated[int, Field(ge=0)] = 0
    tokenizer: Annotated[str, Field(min_length=1)] = "minilm"

    def __post_init__(self) -> None:
        if self.overlap >= self.budget:
            raise ConfigError(f"a budget of {self.budget} tokens with an overlap of {self.overlap}",
                              where=type(self).__name__, hint="the overlap is at least 0 and below the budget")

    def identity(self) -> Mapping[str, Any]:
        return {"tokenizer_hash": tokenizer_hash(self.tokenizer)}

    def tokens(self, text: str) -> TokenStarts:
        """Where each token of ``text`` starts."""
        return TokenStarts.of(text, self.tokenizer)

    def _named(self) -> Mapping[str, Any]:
        usual = {} if "tokenizer" in self.changed() else {"tokenizer"}
        return {name: value for name, value in self.settings().items() if name not in usual}
