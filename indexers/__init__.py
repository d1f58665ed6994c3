"""From files on disk to a searchable index: corpus readers, chunkers, encoders, the passage store, views, the indexing job.

Lives here: ``corpus`` (readers), ``chunkers``, ``encoders``, ``store`` and ``writer`` (the Lance dataset, read and write side) with
``commits`` (how it changes) and ``digests`` (what its files hold), ``columns`` (an index's encoders), ``filters``, ``views`` (FAISS, BM25,
attention), ``job`` (``build_index``) with ``seen``, ``pace`` (when it commits), ``sources`` (where documents came from, and their ids),
``prune`` (those that are gone) and ``unfinished`` (what it has not ended); ``deletion`` and ``compaction``, with ``leases`` (which versions
are in use); ``integrity`` (whether files are what was written) and ``verify`` (of a whole index, and mending it); ``chosen`` (which models
an index may name) and ``serving`` (which version is read).

May import: ``regard.rag``, ``regard.kernels``.
"""

from .compaction import CompactionReport, compact
from .deletion import DeletionReport, delete_documents
from .job import IndexReport, build_index
from .store import LanceStore
from .verify import Report, verify_index

__all__ = ["CompactionReport", "DeletionReport", "IndexReport", "LanceStore", "Report", "build_index", "compact", "delete_documents",
           "verify_index"]
