"""Derived views of the passage store: FAISS, BM25, and the passages' keys and values. Each is a folder that can be
deleted and built again.

Lives here: ``kind`` (what a view kind is, and how one is named); a file or folder a kind: ``flat``, ``hnsw`` and
``ivf`` (over ``faiss_view``, with ``filtered``, how that searches under filters), ``bm25``, ``attention``; ``files``
(how a view is written whole and found fresh), ``versions`` (what is there), ``arrays`` (opening what numpy wrote),
``missing`` (what to say of what is not).

May import: ``regard.rag``, the rest of ``regard.indexers`` but ``jobs``. ``files``, ``versions`` and ``missing`` know
no kind.
"""

from ...rag.tables import lazy
from .files import NEW, build_view, built_view, carry_view, fresh_view, load_view, open_view
from .kind import SearchView, View, ViewKind, parse_view
from .missing import missing_view
from .versions import Version, home_of, newest_versions, view_kinds

VIEWS = {
    "attention": ".attention.kind:AttentionCache",
    "bm25": ".bm25:BM25Index",
    "flat": ".flat:Flat",
    "hnsw": ".hnsw:HNSW",
    "ivf": ".ivf:IVF",
}
PREFILLS = {"attention": ".attention.opening:open_prefills"}

__getattr__ = lazy(__name__, {place.partition(":")[2]: place for place in VIEWS.values()})

__all__ = [
    "NEW", "SearchView", "Version", "View", "ViewKind", "build_view", "built_view", "carry_view", "fresh_view",
    "home_of", "load_view",
    "missing_view", "newest_versions", "open_view", "parse_view", "view_kinds",
]
