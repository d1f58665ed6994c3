"""The tables' entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ...markup import one_line
from . import say

if TYPE_CHECKING:
    from ..methods import Method


def show_methods(methods: Sequence[Method]) -> None:
    for group, held in groupby(methods, key=lambda method: method.group):
        say((one_line(group), "bold"))
        _show_group(list(held))
        say()


def _show_group(methods: Iterable[Method]) -> None:
    for method in methods:
        what = (f"broken: {one_line(method.error)}", "red") if method.error else one_line(method.summary)
        say("  ", (one_line(method.name), "cyan"), "  ", (one_line(method.place), "dim"))
        if what:
            say("      ", what)
        if method.card:
            say("      ", (_cited(method.card), "dim"))


def _cited(card: dict[str, object]) -> str:
    """``Malkov and Yashunin, 2018, arXiv 1603.09320; by FAISS``."""
    arxiv = f"arXiv {card['arxiv']}" if card.get("arxiv") else ""
    source = ", ".join(str(part) for part in (card.get("authors"), card.get("year"), arxiv, card.get("code")) if part)
    return one_line("; ".join(part for part in (source, str(card.get("note") or "")) if part))
