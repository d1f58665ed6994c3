"""LangChain: a pipeline as a retriever, LangChain's documents as a corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever
from pydantic import SkipValidation

from ..documents import Document, Ranking
from ..errors import ConfigError
from ..pipeline import Pipeline, Result


class RegardRetriever(BaseRetriever):
    """A Regard pipeline wherever LangChain takes a retriever.

    ``output`` names the pipeline's ranking output; ``k`` limits the documents. A document's metadata has the passage's own, and
    ``passage_id``, ``document_id``, ``title``, ``start``, ``end`` and ``score``.
    """

    pipeline: SkipValidation[Pipeline]
    output: str = "passages"
    k: int = 10

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[LangChainDocument]:
        return self._documents(self.pipeline.run(query))

    async def _aget_relevant_documents(self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun) -> list[LangChainDocument]:
        return self._documents(await self.pipeline.arun(query))

    def _documents(self, result: Result) -> list[LangChainDocument]:
        ranking = result.get(self.output)
        if not isinstance(ranking, Ranking):
            raise ConfigError(f"the pipeline has no ranking output {self.output!r}", where=self.pipeline.name,
                              hint=f"outputs: {', '.join(result)}")
        return [LangChainDocument(hit.passage.text, id=hit.passage.id, metadata=_metadata(hit)) for hit in ranking.top(self.k)]


def from_langchain(documents: Iterable[LangChainDocument]) -> Iterator[Document]:
    """LangChain documents (what its loaders and splitters give) as a corpus; ``build_index`` takes them as they are, too.

    The id is the document's own, else its ``source`` metadata, else a hash of its text. Where several documents of these share a source
    (the pages of a PDF), the second is ``SOURCE#2``, and so on. ``title`` is taken from the metadata.
    """
    seen: Counter[str] = Counter()
    return (one_from_langchain(document, seen) for document in documents)


def one_from_langchain(document: LangChainDocument, seen: Counter[str]) -> Document:
    """One document of a stream; ``seen`` counts the stream's sources."""
    metadata: dict[str, Any] = dict(document.metadata)
    identity, source = document.id, metadata.get("source")
    if identity is None and source:
        seen[str(source)] += 1
        identity = f"{source}#{seen[str(source)]}" if seen[str(source)] > 1 else str(source)
    identity = identity or hashlib.blake2b(document.page_content.encode(), digest_size=12).hexdigest()
    return Document(str(identity), document.page_content, str(metadata.pop("title", "") or ""), metadata)


def _metadata(hit: Any) -> dict[str, Any]:
    passage = hit.passage
    return {**passage.metadata, "passage_id": passage.id, "document_id": passage.document_id, "title": passage.title,
            "start": passage.start, "end": passage.end, "score": hit.score}
