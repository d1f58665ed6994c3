"""Nouns as notebooks show them: by the renderer that the table ``regard.renderers`` has under the noun's name."""

from __future__ import annotations

from typing import Any

from ..tables import table


def html(noun: Any) -> str:
    """A fragment of HTML."""
    rendered: str = table("regard.renderers")[type(noun).__name__](noun)
    return rendered
