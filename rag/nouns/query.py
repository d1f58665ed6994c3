"""A question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import EmptyQueryError, QueryError
from .plain import Flat
from .text import Metadata


@dataclass(frozen=True, slots=True)
class Query(Flat):
    """A question. ``filters`` maps a metadata field to a value, a list of values, or bounds (``{"gte": 2020, "lt": 2024}``)."""

    text: str
    id: str = "q"
    filters: Metadata = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise QueryError(f"a query's text is a {type(self.text).__name__}", where=f"query {self.id!r:.80}", hint="pass a str")
        if not isinstance(self.id, str):
            raise QueryError(f"a query's id is a {type(self.id).__name__}", where=f"query {self.id!r:.80}", hint="pass a str")
        for name, value in (("filters", self.filters), ("metadata", self.metadata)):
            if not isinstance(value, Mapping):
                raise QueryError(f"a query's {name} are a {type(value).__name__}", where=f"query {self.id!r:.80}", hint="pass a mapping")
        if not self.text or not self.text.strip():
            raise EmptyQueryError("the query has no text", where=f"query {self.id!r}", hint="pass a question of at least one word")
