"""Query -> ranking: dense and lexical first stages, fusion, passages to documents.

Lives here: ``first_stage`` (what ``Dense`` and ``BM25`` share), ``dense``, ``bm25``, ``fuse``, ``parents``.
May import: ``regard.indexers``, ``regard.rag``, ``regard.kernels``.
"""

from .bm25 import BM25
from .dense import Dense
from .fuse import Fuse
from .parents import Parents

__all__ = ["BM25", "Dense", "Fuse", "Parents"]
