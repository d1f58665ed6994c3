"""The nouns: small immutable values that stages hand each other.

Nothing here imports a framework. Every class has ``to_dict`` and ``from_dict`` (plain JSON values).

Lives here, each module importing those before it: ``plain`` (JSON), ``text`` (Document, Passage, Media), ``query``
(Query, Turn, QueryVector), ``store`` (what a ranking's rows point into, Federation), ``evidence``, ``spaces`` (score
spaces), ``frames`` (pandas), ``ranking`` (Ranking, Hit, Step), ``answer``, ``verdict`` (Verdict, Abstention), ``batch``
(Batch, Group, State). May import: ``rag.errors``, ``rag.tables``.
"""

from .answer import ENTAILED, Answer, Citation, Context, Sentence, Usage
from .batch import Batch, Group, State
from .evidence import Evidence, TokenEvidence
from .frames import Figure, data_frame
from .query import Query, QueryVector, Turn
from .ranking import Hit, Ranking, Scores, Step, Touch
from .spaces import SCORE_SPACES, ScoreSpace, Space
from .store import Federation, FilteredStore, Opener, PassageList, PassageStore, Rows, united
from .text import Document, Media, Metadata, Passage
from .verdict import Abstention, Verdict

__all__ = [
    "ENTAILED", "SCORE_SPACES", "Abstention", "Answer", "Batch", "Citation", "Context", "Document", "Evidence",
    "Federation", "Figure", "FilteredStore", "Group", "Hit", "Media", "Metadata", "Opener", "Passage", "PassageList",
    "PassageStore", "Query", "QueryVector", "Ranking", "Rows", "ScoreSpace", "Scores", "Sentence", "Space", "State",
    "Step", "Touch",
    "Turn", "TokenEvidence", "Usage", "Verdict", "data_frame", "united",
]
