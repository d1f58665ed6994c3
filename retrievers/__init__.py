"""Query -> ranking: dense and lexical first stages, fusion, passages to documents.

Lives here: ``first_stage`` (what ``Dense`` and ``BM25`` share), ``dense``, ``bm25``, ``fuse``, ``parents``. A new
stage is a file and a line
in the table.
May import: ``regard.indexers``, ``regard.rag`` (but ``rag.app``), ``regard.kernels``.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .bm25 import BM25
    from .dense import Dense
    from .fuse import Fuse
    from .parents import Parents

STAGES = {
    "BM25": ".bm25:BM25",
    "Dense": ".dense:Dense",
    "Fuse": ".fuse:Fuse",
    "Parents": ".parents:Parents",
}
__all__ = ["STAGES", "BM25", "Dense", "Fuse", "Parents"]
__getattr__ = lazy(__name__, STAGES)
