"""Regard: retrieval-augmented generation as a typed DAG.

    from regard import RAG, rerank

    print(RAG("docs/").ask("How long does a flea live?"))
    for hit in rerank("how long does a flea live", ["The Moon orbits the Earth.", "A flea lives for months."]):
        print(hit.rank, hit.passage.text)

What people use most, under one name; nothing is imported before it is asked for. All the rest lives in ``regard.rag``
(nouns, pipelines, evaluation), ``regard.indexers``, ``regard.retrievers``, ``regard.rerankers``, ``regard.readers`` and
``regard.kernels``. The source lies in the folder ``rag/top``, since a checkout has no folder ``regard``; imports are
absolute here, because that folder is below ``regard.rag``, too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.indexers import build_index
    from regard.rag import Answer, Batch, Document, Passage, Pipeline, Query, Ranking, Stage
    from regard.rag.app.rag import RAG
    from regard.rag.app.rerank import rerank
    from regard.readers import Reader, RemoteReader
    from regard.rerankers import AttentionReranker, CrossEncoder
    from regard.retrievers import BM25, Dense, Fuse, Parents

_PLACES = {
    "Answer": "regard.rag:Answer",
    "AttentionReranker": "regard.rerankers:AttentionReranker",
    "BM25": "regard.retrievers:BM25",
    "Batch": "regard.rag:Batch",
    "CrossEncoder": "regard.rerankers:CrossEncoder",
    "Dense": "regard.retrievers:Dense",
    "Document": "regard.rag:Document",
    "Fuse": "regard.retrievers:Fuse",
    "Parents": "regard.retrievers:Parents",
    "Passage": "regard.rag:Passage",
    "Pipeline": "regard.rag:Pipeline",
    "Query": "regard.rag:Query",
    "RAG": "regard.rag.app.rag:RAG",
    "Ranking": "regard.rag:Ranking",
    "Reader": "regard.readers:Reader",
    "RemoteReader": "regard.readers:RemoteReader",
    "Stage": "regard.rag:Stage",
    "build_index": "regard.indexers:build_index",
    "rerank": "regard.rag.app.rerank:rerank",
}
__version__: str
__all__ = [
    "BM25", "RAG", "Answer", "AttentionReranker", "Batch", "CrossEncoder", "Dense", "Document", "Fuse", "Parents",
    "Passage", "Pipeline", "Query", "Ranking", "Reader", "RemoteReader", "Stage", "__version__", "build_index",
    "rerank",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # else a type checker takes every name for one of this package

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("regard")
        from regard.rag.tables import lazy

        return lazy(__name__, _PLACES)(name)
