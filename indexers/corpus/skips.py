"""What a reader left out, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class Unreadable(ValueError):
    """One document that cannot be read or is not let in; the message is the reason that its :class:`Skip` gives."""


@dataclass(frozen=True, slots=True)
class Skip:
    """One document that could not be read: ``source`` as the user gave it, ``location`` inside it
    (``corpus.jsonl:17``), ``reason``."""

    source: str
    location: str
    reason: str


OnSkip = Callable[[Skip], None]
