"""ICR without order."""

from __future__ import annotations

from ....rag.lm.heads import Heads, Measure, chosen
from ....rag.parts import Count, Share
from .order_free import OrderFree


class BlockICR(OrderFree):
    """ICR without order; ours. What ICR takes from the first stage's order by accident is taken from its scores on
    purpose (``fusion``).

    - Rows, calibration, filter: ICR's. Heads: the ``top`` by ``measure`` of a head set's file, of published heads
      (``"14-22,13-16"`` or a file), of the set that comes with the model ("shipped"), or of that one where there is one
      ("auto"); None: all.
    - Mask and positions: each passage sees the prompt's beginning and itself, all stand at the same positions with the
      same marker, the query at a fixed distance. So a passage's keys and values and its distance to the query do not
      depend on the others; the former can be computed once for all queries. The score does: passages share out one
      softmax, and the query's rows have read them all in the layers below.
    """

    fusion: Share | None = 0.5
    heads: str | None = "auto"
    top: Count = 8
    measure: Measure = "ndcg"

    def heads_in(self, lm: str) -> Heads:
        return None if self.heads is None else chosen(self.heads, lm, self.measure, self.top, self.mask)
