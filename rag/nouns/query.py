"""A question, and what it becomes for an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, EmptyQueryError, QueryError, StageError
from .plain import UNLESS_EMPTY, PlainNoun, parsed
from .text import Media, Metadata

ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn(PlainNoun):
    """An earlier turn of a conversation: who said it (one of ``ROLES``), and what."""

    role: str
    text: str

    def __post_init__(self) -> None:
        if self.role not in ROLES or not isinstance(self.text, str):
            raise QueryError(f"a turn is said by {self.role!r:.80}: {self.text!r:.80}", where="Turn",
                             hint=f"its role is one of {', '.join(ROLES)}, its text is a str")


@dataclass(frozen=True, slots=True)
class Query(PlainNoun):
    """A question. ``filters`` maps a metadata field to a value, a list of values, or bounds (``{"gte": 2020, "lt":
    2024}``).

    ``instruction`` is the task in words, for encoders and models that take one; ``turns`` are the conversation before
    the question, oldest first; ``origin`` is the id of the query that this one was derived from, which is judged by
    that one's qrels.
    """

    text: str
    id: str = "q"
    filters: Metadata = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)
    instruction: str = field(default="", metadata=UNLESS_EMPTY)
    turns: tuple[Turn, ...] = field(default=(), metadata=UNLESS_EMPTY)
    media: tuple[Media, ...] = field(default=(), metadata=UNLESS_EMPTY)
    origin: str | None = field(default=None, metadata=UNLESS_EMPTY)

    def __post_init__(self) -> None:
        for name, kind, wanted in _FIELDS:
            if not isinstance(value := getattr(self, name), kind):
                verb = "is" if wanted == "a str" else "are"
                raise QueryError(f"a query's {name} {verb} a {type(value).__name__}", where=f"query {self.id!r:.80}",
                                 hint=f"pass {wanted}")
        for name, member in (("turns", Turn), ("media", Media)):
            held = tuple(getattr(self, name))
            if not all(isinstance(item, member) for item in held):
                raise QueryError(f"a query's {name} hold something else than a {member.__name__}: {held!r:.80}",
                                 where=f"query {self.id!r:.80}", hint=f"pass a tuple of {member.__name__}")
            object.__setattr__(self, name, held)
        if not self.text or not self.text.strip():
            raise EmptyQueryError("the query has no text", where=f"query {self.id!r}",
                                  hint="pass a question of at least one word")

    def derive(self, text: str, **changes: Any) -> Query:
        """A query of another text in this one's place: all else stays, and ``origin`` says whose qrels judge it.

        ``changes`` replace other fields (``id``, where one query becomes several). Raises ``ConfigError`` for one that
        a query lacks.
        """
        try:
            return replace(self, **{"text": text, "origin": self.origin or self.id, **changes})
        except TypeError as error:
            raise ConfigError(f"a query cannot be derived with these changes: {error}", where=f"query {self.id!r:.80}",
                              hint=f"fields: {', '.join(self.__dataclass_fields__)}") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        with parsed(cls, data):
            turns = tuple(map(Turn.from_dict, data.get("turns", ())))
            return cls(**{**data, "turns": turns, "media": tuple(map(Media.from_dict, data.get("media", ())))})


_FIELDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("text", (str, type(None)), "a str"), ("id", str, "a str"), ("filters", Mapping, "a mapping"),
    ("metadata", Mapping, "a mapping"),
    ("instruction", str, "a str"), ("turns", (tuple, list), "a tuple of Turn"),
    ("media", (tuple, list), "a tuple of Media"),
    ("origin", (str, type(None)), "a str"),
)

SparseVector = Mapping[str, float]
"""Weights by term."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryVector:
    """What an encoder made of ``query``: float32 [d] (dense), float32 [t, d] (a row a token), or weights by term
    (sparse).

    ``encoder`` names who made it and ``fingerprint`` is that encoder's, so that it is never looked up among another's
    vectors. Raises ``StageError`` for what is no such vector, or holds a number that is not finite.
    """

    query: Query
    value: NDArray[np.float32] | SparseVector
    encoder: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        held = _sparse(self.value) if isinstance(self.value, Mapping) else _dense(self.value)
        object.__setattr__(self, "value", held)

    @property
    def kind(self) -> Literal["dense", "tokens", "sparse"]:
        if isinstance(self.value, Mapping):
            return "sparse"
        return "dense" if self.value.ndim == 1 else "tokens"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueryVector):
            return NotImplemented
        alike = (self.query, self.encoder, self.fingerprint) == (other.query, other.encoder, other.fingerprint)
        if isinstance(self.value, Mapping) or isinstance(other.value, Mapping):
            return alike and self.kind == other.kind and self.value == other.value
        return alike and np.array_equal(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def to_dict(self) -> dict[str, Any]:
        value = dict(self.value) if isinstance(self.value, Mapping) else self.value.tolist()
        return {"query": self.query.to_dict(), "value": value, "encoder": self.encoder, "fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QueryVector:
        with parsed(cls, data):
            return cls(Query.from_dict(data["query"]), data["value"], str(data["encoder"]), str(data["fingerprint"]))


def _dense(value: Any) -> NDArray[np.float32]:
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise StageError(f"a query's vector is no array of numbers: {error}", where="QueryVector") from None
    if array.ndim not in (1, 2) or not array.size or not np.isfinite(array).all():
        raise StageError(f"a query's vector has shape {array.shape} or numbers that are not finite",
                         where="QueryVector",
                         hint="float32 [d], or [t, d] with a row a token")
    return read_only(array)


def _sparse(value: Mapping[Any, Any]) -> dict[str, float]:
    if not all(isinstance(term, str) and isinstance(weight, int | float) and np.isfinite(weight)
               for term, weight in value.items()):
        raise StageError("a sparse query vector has finite weights by term", where=f"QueryVector: {value!r:.80}",
                         hint="a mapping from str to float")
    return {term: float(weight) for term, weight in value.items()}


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of the array that cannot be written to (itself, where it is one); nothing is copied."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view
