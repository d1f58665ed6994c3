"""From files on disk to a searchable index: corpus readers, chunkers, encoders, the passage store, views, the indexing
job.

Lives here, each part importing those before it: ``corpus`` (readers), ``chunkers``, ``encoders``, ``stores`` (passages
and their vectors), ``views`` (FAISS, BM25, attention), ``jobs``
(``build_index``, and an index's life afterwards).

May import: ``regard.rag``, ``regard.kernels``.
"""

from typing import TYPE_CHECKING

from ..rag.tables import lazy

if TYPE_CHECKING:
    from .jobs.compaction import compact
    from .jobs.deletion import delete_documents
    from .jobs.index import build_index
    from .jobs.verify import verify_index
    from .stores.opening import open_index

_PLACES = {
    "build_index": ".jobs.index:build_index",
    "compact": ".jobs.compaction:compact",
    "delete_documents": ".jobs.deletion:delete_documents",
    "open_index": ".stores.opening:open_index",
    "verify_index": ".jobs.verify:verify_index",
}
__all__ = ["build_index", "compact", "delete_documents", "open_index", "verify_index"]
__getattr__ = lazy(__name__, _PLACES)
