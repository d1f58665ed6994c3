"""Passage stores: a folder a kind, and what all share.

Lives here: ``filters`` (which passages meet a query's), ``unfinished`` (what a job has not ended), ``lance``.
May import: ``regard.rag`` (but ``rag.app``).
"""

STORES = {"lance": ".lance.serving:open_store"}
"""By the scheme of their URI."""
