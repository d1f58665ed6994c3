"""The parsers by name, with one way to fail: what a hostile document makes them raise is a reason to skip it.

Imports nothing but its neighbours: the parser process loads it without the rest of the package.
"""

from __future__ import annotations

from typing import Any

from . import html, markdown, pdf
from .skips import Unreadable


def parse(kind: str, data: bytes) -> Any:
    """``pdf``: title, text, metadata. ``html``: title, text. ``title`` of a Markdown text; its ``headings``, each as a
    list of its fields. ``data`` is UTF-8, but for PDF. Raises ``Unreadable``, ``MemoryError``."""
    try:
        if kind == "pdf":
            return pdf.content(data)
        text = data.decode("utf-8", "surrogatepass")
        if kind == "html":
            return html.content(text)
        if kind == "title":
            return markdown.title(text)
        return [[heading.level, heading.text, heading.start, heading.end] for heading in markdown.headings(text)]
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a parser fails on hostile input with any exception there is
        raise Unreadable(f"it cannot be parsed: {type(error).__name__}: {error!s:.200}") from error


def answer(kind: str, data: bytes, characters: int) -> dict[str, Any]:
    """``{"parsed": ...}``, ``{"unreadable": why}``, or ``{"characters": how many}`` where those of the texts are more
    than ``characters``."""
    try:
        parsed = parse(kind, data)
    except Unreadable as error:
        return {"unreadable": str(error)}
    size = sum(len(part) for part in parsed if isinstance(part, str)) if kind in ("pdf", "html") else 0
    return {"characters": size} if size > characters else {"parsed": parsed}
