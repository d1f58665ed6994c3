"""Query -> ranking: dense and lexical first stages, fusion, passages to documents.

Lives here: ``encode`` and ``search`` (queries to vectors, vectors or texts to rankings), ``dense`` and ``bm25`` (what
people write, made of those two), ``fuse``, ``parents``. A new stage is a file and a line in the table.
May import: ``regard.indexers``, ``regard.rag`` (but ``rag.app``), ``regard.kernels``.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .bm25 import BM25
    from .dense import Dense
    from .encode import Encode
    from .fuse import Fuse
    from .parents import Parents
    from .search import Search

STAGES = {
    "BM25": ".bm25:BM25",
    "Dense": ".dense:Dense",
    "Encode": ".encode:Encode",
    "Fuse": ".fuse:Fuse",
    "Parents": ".parents:Parents",
    "Search": ".search:Search",
}
__all__ = ["BM25", "STAGES", "Dense", "Encode", "Fuse", "Parents", "Search"]
__getattr__ = lazy(__name__, STAGES)
