"""Query-focused retrieval heads."""

from __future__ import annotations

from ....rag.lm.heads import Heads, Measure, chosen
from ....rag.parts import Card, Count
from .listwise import Listwise
from .policy import PUBLISHED


class QRHead(Listwise):
    """Query-focused retrieval heads: ICR by a few heads.

    - Rows, calibration, filter, mask, positions, order: ICR's, in their code too: heads are summed, then a passage's
      tokens below its mean less 2 standard deviations are left out.
    - Heads: the ``top`` by ``measure`` on another collection (``rerankers.attention.detect``): ``qrhead_ndcg`` as they
      choose them for search, ``qrhead_score`` as for long-context question answering. ``heads`` is also a file of
      theirs, or ``"14-22,13-16"``.
    """

    card = Card("Zhang et al.", 2025, arxiv="2506.09944", code="princeton-pli/QRHead",
                note="their code cuts passages after 400 words (max_words) and puts the best last for BEIR only")

    separator: str = PUBLISHED
    heads: str = "shipped"
    top: Count = 16
    measure: Measure = "qrhead_ndcg"

    def heads_in(self, lm: str) -> Heads:
        return chosen(self.heads, lm, self.measure, self.top, self.mask)
