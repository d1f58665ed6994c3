"""In-Context Re-ranking."""

from __future__ import annotations

from ....rag.parts import Card
from .listwise import Listwise


class ICR(Listwise):
    """In-Context Re-ranking: the attention of the whole suffix, by all heads.

    - Rows: all from the instruction on to the end of the turn. Heads: all. Calibration: "N/A"'s attention is
      subtracted, token by token.
    - Filter: a passage's tokens below its mean less 2 standard deviations, after summing the heads. Spans include the
      marker ``[i] ``.
    - Mask and positions: causal, one after the other; the best first-stage passage last (their scripts'
      ``--reverse_doc_order``).
    """

    card = Card(
        "Chen, Gutiérrez and Su", 2024, arxiv="2410.02642", code="OSU-NLP-Group/In-Context-Reranking",
        note='separator is a line break by default, and "published" is theirs; window is off by default (their class '
             'has 20 and 10, their scripts no window)')
