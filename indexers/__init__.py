"""From files on disk to a searchable index: corpus readers, chunkers, encoders, the passage store, views, the indexing job.

Lives here: ``corpus`` (readers), ``chunkers``, ``encoders``, ``store`` and ``writer`` (the Lance dataset, read and write side) with
``commits`` (how it changes) and ``digests`` (what its files hold),
``columns`` (an index's encoders), ``filters``, ``views`` (FAISS, BM25), ``job`` (``build_index``) with ``seen``, ``pace`` (when it
commits), ``sources`` (where documents came from) and ``unfinished`` (what it has not ended).
May import: ``regard.rag``, ``regard.kernels``.
"""

from .job import IndexReport, build_index, delete_documents
from .store import LanceStore

__all__ = ["IndexReport", "LanceStore", "build_index", "delete_documents"]
