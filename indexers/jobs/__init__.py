"""Jobs over an index: making it, and its life afterwards.

Lives here: ``index`` (``build_index``) with ``seen``, ``pace`` (when it commits), ``sources`` (where documents came from, and their ids),
``prune`` (those that are gone) and ``columns`` (an index's encoders); ``deletion``, ``compaction`` and ``verify``;
``chosen`` (which models an
index may name). May import: the rest of ``regard.indexers``, ``regard.rag`` (but ``rag.app``).
"""

JOBS = {
    "compact": ".compaction:compact",
    "delete": ".deletion:delete_documents",
    "index": ".index:build_index",
    "models": ".chosen:models_not_chosen",
    "verify": ".verify:verify_index",
}
