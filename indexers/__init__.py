"""From files on disk to a searchable index: corpus readers, chunkers, encoders, the passage store, views, the indexing job.

Lives here: ``corpus`` (readers), ``chunkers``, ``encoders``, ``store`` and ``writer`` (the Lance dataset, read and write side) with
``commits`` (how it changes) and ``digests`` (what its files hold), ``columns`` (an index's encoders), ``filters``, ``views`` (FAISS, BM25,
attention), ``job`` (``build_index``) with ``seen``, ``pace`` (when it commits), ``sources`` (where documents came from, and their ids),
``prune`` (those that are gone) and ``unfinished`` (what it has not ended); ``deletion`` and ``compaction``, with ``leases`` (which versions
are in use); ``integrity`` (whether files are what was written) and ``verify`` (of a whole index, and mending it); ``chosen`` (which models
an index may name) and ``serving`` (which version is read).

May import: ``regard.rag``, ``regard.kernels``.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .jobs.compaction import CompactionReport, compact
    from .jobs.deletion import DeletionReport, delete_documents
    from .jobs.index import IndexReport, build_index
    from .jobs.verify import Report, verify_index
    from .stores.lance.store import LanceStore

_PLACES = {
    "CompactionReport": ".jobs.compaction:CompactionReport",
    "DeletionReport": ".jobs.deletion:DeletionReport",
    "IndexReport": ".jobs.index:IndexReport",
    "LanceStore": ".stores.lance.store:LanceStore",
    "Report": ".jobs.verify:Report",
    "build_index": ".jobs.index:build_index",
    "compact": ".jobs.compaction:compact",
    "delete_documents": ".jobs.deletion:delete_documents",
    "verify_index": ".jobs.verify:verify_index",
}
__all__ = ["CompactionReport", "DeletionReport", "IndexReport", "LanceStore", "Report", "build_index", "compact", "delete_documents",
           "verify_index"]
__getattr__ = lazy(__name__, _PLACES)
