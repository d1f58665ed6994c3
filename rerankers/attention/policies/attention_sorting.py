"""Attention Sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....rag.parts import Card, Count
from .policy import Lay, Policy, Scored
from .scores import summed

if TYPE_CHECKING:
    from ....rag.lm import LanguageModel


class AttentionSorting(Policy):
    """Attention Sorting: sort the passages by the attention that the answer's first token pays them, most last, and do
    so again, ``rounds`` times: attention favours what is near, so each round is harder on its winner.

    Rows: the last one, from which the answer's first token comes. Heads: all, summed. No calibration, no filter. Mask
    and positions: causal, one after the other.
    """

    card = Card("Peysakhovich and Lerer", 2023, arxiv="2310.01427", note="after the paper's text; the prompt is ICR's")

    calibration: None = None
    deviations: None = None
    rounds: Count = 2

    def score(self, lm: LanguageModel, lay: Lay, n: int) -> Scored:
        order = list(range(n - 1, -1, -1))
        for _ in range(self.rounds):
            prompt = lay(order)
            last = len(prompt.suffixes[0])
            mass = lm.attention_mass(prompt.context, prompt.suffixes, query_rows=[(last - 1, last)])
            scores = summed(mass, prompt, None)
            order = [int(p) for p in np.argsort(scores, kind="stable")]
        return Scored(scores, mass, prompt)
