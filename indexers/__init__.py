"""From files on disk to a searchable index: corpus readers, chunkers, encoders, the passage store, views, the indexing job.

Lives here: ``corpus`` (readers), ``chunkers``, ``encoders``, ``store`` and ``writer`` (the Lance dataset, read and write side),
``columns`` (an index's encoders), ``filters``, ``views`` (FAISS, BM25), ``job`` (``build_index``) with ``seen``, ``pace`` (when it
commits), ``sources`` (where documents came from) and ``unfinished`` (what it has not ended); ``digests`` and ``integrity`` (whether
files are what was written) and ``verify`` (of a whole index, and mending it).
May import: ``regard.rag``, ``regard.kernels``.
"""

from .job import IndexReport, build_index, delete_documents
from .store import LanceStore
from .verify import Report, verify_index

__all__ = ["IndexReport", "LanceStore", "Report", "build_index", "delete_documents", "verify_index"]
