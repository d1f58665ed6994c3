"""Where a method comes from, as data: ``regard methods`` and the documentation's table of methods are made from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A published method: who, when, where (``arxiv``: its id there, ``code``: the authors' repository); ``note``:
    where we depart."""

    authors: str
    year: int
    arxiv: str = ""
    code: str = ""
    note: str = ""

    def __str__(self) -> str:
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors} {self.year}{where}"
