"""The nouns: small immutable values that stages hand each other.

Nothing here imports a framework. Every class has ``to_dict`` and ``from_dict`` (plain JSON values).

Lives here: ``text`` (Document, Passage), ``query``, ``ranking`` (Ranking, Hit, Step), ``answer``, ``batch``, ``store`` (what a ranking's
rows point into), ``plain`` (JSON). May import: ``rag.errors``.
"""

from .answer import ENTAILED, Answer, Citation, Context, Sentence, Usage
from .batch import Batch
from .query import Query
from .ranking import Hit, Ranking, Scores, ScoreSpace, Step, Touch
from .store import FilteredStore, PassageList, PassageStore, Rows
from .text import Document, Metadata, Passage

__all__ = [
    "ENTAILED", "Answer", "Batch", "Citation", "Context", "Document", "FilteredStore", "Hit", "Metadata", "Passage", "PassageList",
    "PassageStore", "Query", "Ranking", "Rows", "ScoreSpace", "Scores", "Sentence", "Step", "Touch", "Usage",
]
