"""What a verification says of an index's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """``file``: its path in the index. ``what`` is wrong, or to be known; ``mend``: what to do."""

    file: str
    what: str
    mend: str = ""


def repair_command(path: Path) -> str:
    """How to mend the index at ``path``."""
    return f"regard verify {path} --repair"


def again(path: Path) -> str:
    """How to bring back what the index at ``path`` has lost."""
    return f"index the same sources again: regard index SOURCE --index {path}"
