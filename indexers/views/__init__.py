"""Derived views of the passage store: FAISS and BM25. Each is a folder that can be deleted and built again.

Lives here: ``spec`` (names of views), ``faiss_view``, ``bm25_view``, ``files`` (how a view is written whole and found fresh).
May import: ``regard.rag``, the rest of ``regard.indexers``.
"""

from .bm25_view import BM25View
from .faiss_view import FaissView
from .files import View, build_view, open_view, view_specs
from .spec import ViewSpec, parse_view

__all__ = ["BM25View", "FaissView", "View", "ViewSpec", "build_view", "open_view", "parse_view", "view_specs"]
