"""An attention policy of somebody else, in the table of their distribution."""

from __future__ import annotations

from regard.rag.lm import describe
from regard.rag.lm.heads import Heads
from regard.rag.parts import Card, Count
from regard.rerankers import Policy

POLICIES = {"UpperLayers": "acme_policies:UpperLayers"}


class UpperLayers(Policy):
    """ICR by all heads of the last ``layers`` layers."""

    card = Card("Somebody and Else", 2026, note="there is no such paper")

    layers: Count = 2

    def heads_in(self, lm: str) -> Heads:
        info = describe(lm)
        return [(layer, head) for layer in range(info.layers)[-self.layers:] for head in range(info.heads)]
