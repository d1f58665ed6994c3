"""What the command line prints: here how, in the modules what, by what it is of."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.text import Text

from ...markup import one_line, visible

console = Console(highlight=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A text of ``parts``, each plain or with its style. Nothing in them is markup, or obeyed by a terminal; what is
    data is given as ``one_line`` of it where it must not break the line."""
    return Text.assemble(*(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts))


def say(*parts: str | tuple[str, str]) -> None:
    """Print :func:`styled`."""
    console.print(styled(*parts))


def put(what: RenderableType) -> None:
    """Print a table, whose cells are made by :func:`cell`."""
    console.print(what)


def cell(text: object) -> Text:
    return styled(one_line(str(text)))


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
