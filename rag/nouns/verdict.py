"""What a stage decides of a query."""

from __future__ import annotations

from dataclasses import dataclass

from .plain import PlainNoun


@dataclass(frozen=True, slots=True)
class Verdict(PlainNoun):
    """A choice: its label, how sure whoever made it is (None where it gives no number), and why."""

    label: str
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Abstention(PlainNoun):
    """In place of an answer: why none is given."""

    reason: str

    def __str__(self) -> str:
        return self.reason
