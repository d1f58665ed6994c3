"""Passage stores: a folder a kind, and what all share.

Lives here: ``protocols`` (what a store, its writer, its upkeep and its check promise), ``opening`` (an index by its
name), ``changes`` (what a commit holds), ``filters`` (which passages meet a query's), ``locks``, ``integrity`` (whether
files are what was written), ``serving`` (which version is read), ``unfinished`` (what a job has not ended),
``findings``; ``lance``. May import: ``regard.rag`` (but ``rag.app``), ``corpus``, ``chunkers``, ``encoders``.
"""

STORES = {
    "lance": ".lance.kind:Lance",
    "path": ".lance.kind:Lance",  # what an index is that is named by its path alone
}
"""Kinds of stores (``protocols.StoreKind``) by the scheme of their URIs."""
