"""What the numbers of a ranking are: names of score spaces and what they mean. In each of them higher is better.

Another distribution brings its own in a table under the entry-point group ``regard.score_spaces``; a session registers
one by ``table("regard.score_spaces").register("hamming", Space("..."))``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StageError
from ..tables import table

ScoreSpace = str
"""The name of a registered score space."""


@dataclass(frozen=True, slots=True)
class Space:
    """``meaning`` in one line."""

    meaning: str


COSINE = Space("cosine of the angle between two vectors, -1 to 1")
INNER_PRODUCT = Space("inner product of two vectors, or the sum of those of their tokens")
BM25 = Space("Okapi BM25: a sum over the query's terms, 0 or more")
LOGIT = Space("a model's number before any normalisation; comparable within one query")
PROBABILITY = Space("a probability, 0 to 1")
ATTENTION_MASS = Space("attention that the query's tokens pay to a passage's, of the heads that count")
RRF = Space("reciprocal rank fusion: a sum of weight / (c + rank)")
WEIGHTED_SUM = Space("weighted sum of scores that were normalised within their rankings")

SCORE_SPACES = {
    "cosine": ".spaces:COSINE", "inner-product": ".spaces:INNER_PRODUCT", "bm25": ".spaces:BM25",
    "logit": ".spaces:LOGIT",
    "probability": ".spaces:PROBABILITY", "attention-mass": ".spaces:ATTENTION_MASS", "rrf": ".spaces:RRF",
    "weighted-sum": ".spaces:WEIGHTED_SUM",
}


def expect_space(name: object) -> None:
    """Raise ``StageError`` for a score space that is not registered."""
    known = table("regard.score_spaces")
    if name not in SCORE_SPACES and name not in known.names():  # most are ours, and then no distribution is asked
        raise StageError(f"the score space {name!r:.80} is not registered", where="Ranking",
                         hint=f"known: {', '.join(known.names())}; add yours to a table of the group {known.group!r}, "
                              f"or register it")
