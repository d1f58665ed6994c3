"""Derived views of the passage store: FAISS, BM25, and the passages' keys and values. Each is a folder that can be deleted and built again.

Lives here: ``spec`` (names of views), ``faiss_view`` (with ``filtered``, how it searches under filters), ``bm25_view``,
``attention_view`` (with ``attention_job``, which computes it, ``attention_shards`` and ``attention_layout``, how it lies on disk),
``footprint`` (what it will take), ``files`` (how a view is written whole and found fresh), ``versions`` (what is there),
``missing`` (what to say of what is not).

May import: ``regard.rag``, the rest of ``regard.indexers``.
"""

from .attention_view import AttentionView
from .bm25_view import BM25View
from .faiss_view import FaissView
from .files import NEW, View, build_view, built_view, carry_view, fresh_view, load_view, open_view
from .missing import missing_view
from .spec import ViewSpec, parse_view
from .versions import Version, newest_versions, view_specs

PREFILLS = {"attention": ".attention_view:open_prefills"}

__all__ = [
    "NEW", "AttentionView", "BM25View", "FaissView", "Version", "View", "ViewSpec", "build_view", "built_view", "carry_view", "fresh_view",
    "load_view", "missing_view", "newest_versions", "open_view", "parse_view", "view_specs",
]
