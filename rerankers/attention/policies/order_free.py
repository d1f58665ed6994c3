"""Policies under which the order that passages come in is no matter."""

from __future__ import annotations

from typing import ClassVar

from ....rag.lm.passages import CONSTANT_MARKER
from ....rag.lm.prefill import Mask, Positions
from .policy import Order, Policy


class OrderFree(Policy):
    """Passages that see the prompt's beginning and themselves, at the same positions with the same marker: their order
    is no matter."""

    mask: ClassVar[Mask] = "block"
    positions: ClassVar[Positions] = "shared"
    marker: ClassVar[str] = CONSTANT_MARKER

    def order(self, n: int) -> Order:
        return None
