"""Values that a run carries side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..errors import ConfigError
from .answer import Answer, Citation
from .plain import as_json, parsed
from .query import Query, QueryVector
from .ranking import Ranking
from .store import Opener, PassageStore
from .text import Document, Metadata, Passage
from .verdict import Abstention, Verdict

T = TypeVar("T", covariant=True)


class Batch(tuple[T, ...]):
    """An immutable sequence of values, one a query; position ``i`` of every batch in a run belongs to query ``i``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Batch({list(self)!r})"


class Group(tuple[T, ...]):
    """The members that one input value became, in order; possibly none."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Group({list(self)!r})"

    def renamed(self, name: Callable[[str], str]) -> Group[T]:
        """With other names for the stages in the histories of its members."""
        return Group(member.renamed(name) if hasattr(member, "renamed") else member for member in self)

    def to_dict(self) -> dict[str, Any]:
        """Members are nouns, each under its class's name, or plain values."""
        return {"members": list(map(_said, self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], opened: PassageStore | Opener | None = None) -> Group[Any]:
        """``opened`` is for rankings among the members (see ``Ranking.from_dict``)."""
        with parsed(cls, data):
            return cls(_member(member, opened) for member in data["members"])


@dataclass(frozen=True, slots=True)
class State:
    """What a loop repeats over: a query, the rankings so far, how many hops were made, whether it is done, and a
    method's own notes."""

    query: Query
    rankings: tuple[Ranking, ...] = ()
    hop: int = 0
    done: bool = False
    notes: Metadata = field(default_factory=dict)

    def renamed(self, name: Callable[[str], str]) -> State:
        """With other names for the stages in the histories of its rankings."""
        return replace(self, rankings=tuple(ranking.renamed(name) for ranking in self.rankings))

    def to_dict(self) -> dict[str, Any]:
        return {"query": self.query.to_dict(), "rankings": [ranking.to_dict() for ranking in self.rankings],
                "hop": self.hop,
                "done": self.done, "notes": as_json(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], opened: PassageStore | Opener | None = None) -> State:
        """``opened`` is for the rankings (see ``Ranking.from_dict``)."""
        with parsed(cls, data):
            rankings = tuple(Ranking.from_dict(ranking, opened) for ranking in data["rankings"])
            return cls(Query.from_dict(data["query"]), rankings, int(data["hop"]), bool(data["done"]),
                       dict(data["notes"]))


def _said(member: Any) -> dict[str, Any]:
    known = type(member) in _NOUNS.values()
    return {"noun": type(member).__name__, "value": member.to_dict()} if known else {"value": as_json(member)}


def _member(data: Mapping[str, Any], opened: PassageStore | Opener | None) -> Any:
    if "noun" not in data:
        return data["value"]
    if data["noun"] not in _NOUNS:
        raise ConfigError(f"no noun is called {data['noun']!r:.80}", where="Group",
                          hint=f"there are: {', '.join(_NOUNS)}")
    kind = _NOUNS[data["noun"]]
    return kind.from_dict(data["value"], opened) if kind in (Ranking, Group, State) else kind.from_dict(data["value"])


_NOUNS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (Abstention, Answer, Citation, Document, Group, Passage, Query, QueryVector, Ranking, State, Verdict)
}
