"""LangChain: a pipeline as a retriever, LangChain's documents as a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import SkipValidation

from ....indexers.corpus.langchain import one_from_langchain
from ...dag.pipeline import Pipeline, Result
from ...dag.threads import in_thread
from ...errors import ConfigError
from ...extras import missing
from ...nouns import Document, Ranking
from ...parts.settings import Count

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManager,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import get_config_list
except ImportError as error:
    raise missing("langchain_core", where=__name__) from error


class RegardRetriever(BaseRetriever):
    """A Regard pipeline wherever LangChain takes a retriever.

    ``output`` names the pipeline's ranking output; ``k`` limits the documents, as does ``invoke(query, k=...)`` for one
    call. A document's metadata has the passage's own, and ``passage_id``, ``document_id``, ``title``, ``start``,
    ``end`` and ``score``. ``batch`` runs the pipeline once for all its queries. A query without text finds nothing, as
    a lexical retriever's does: it is no error here.
    """

    pipeline: SkipValidation[Pipeline]
    output: str = "passages"
    k: Count = 10

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None,
    ) -> list[LangChainDocument]:
        return self._find([query], k)[0]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None,
    ) -> list[LangChainDocument]:
        return (await in_thread(self._find, [query], k))[0]

    def batch(
        self, inputs: list[str], config: RunnableConfig | list[RunnableConfig] | None = None, *,
        return_exceptions: bool = False, k: int | None = None, **kwargs: Any,
    ) -> list[list[LangChainDocument]]:
        """One run of the pipeline for all ``inputs``; callbacks hear of each query by itself. An error is every query's
        error."""
        configs = get_config_list(config, len(inputs))
        runs = [self._started(query, one) for query, one in zip(inputs, configs, strict=True)]
        try:
            found = self._find(inputs, k)
        except Exception as error:
            for run in runs:
                run.on_retriever_error(error)
            if return_exceptions:
                return [error for _ in inputs]  # type: ignore[misc]  # LangChain's signature leaves them out, too
            raise
        for run, documents in zip(runs, found, strict=True):
            run.on_retriever_end(documents)
        return found

    async def abatch(
        self, inputs: list[str], config: RunnableConfig | list[RunnableConfig] | None = None, *,
        return_exceptions: bool = False, k: int | None = None, **kwargs: Any,
    ) -> list[list[LangChainDocument]]:
        """:meth:`batch` in a worker thread."""
        return await in_thread(partial(self.batch, inputs, config, return_exceptions=return_exceptions, k=k, **kwargs))

    def _started(self, query: str, config: RunnableConfig) -> CallbackManagerForRetrieverRun:
        manager = CallbackManager.configure(
            config.get("callbacks"), None, inheritable_tags=config.get("tags"), local_tags=self.tags,
            inheritable_metadata={**(config.get("metadata") or {}), **self._get_ls_params()},
            local_metadata=self.metadata)
        name = config.get("run_name") or self.get_name()
        return manager.on_retriever_start(None, query, name=name, run_id=config.get("run_id"))

    def _find(self, queries: Sequence[str], k: int | None) -> list[list[LangChainDocument]]:
        k = self.k if k is None else k
        if k < 1:
            raise ConfigError(f"k is {k}", where="RegardRetriever", hint="k is at least 1")
        asked = [i for i, query in enumerate(queries) if query.strip()]
        found: list[list[LangChainDocument]] = [[] for _ in queries]
        if asked:
            rankings = self._rankings(self.pipeline.run([queries[i] for i in asked]))
            for i, ranking in zip(asked, rankings, strict=True):
                found[i] = [LangChainDocument(hit.passage.text, id=hit.passage.id, metadata=_metadata(hit))
                            for hit in ranking.top(k)]
        return found

    def _rankings(self, result: Result) -> Sequence[Ranking]:
        rankings: Sequence[Any] = result.get(self.output) or ()
        if not rankings or not isinstance(rankings[0], Ranking):
            raise ConfigError(f"the pipeline has no ranking output {self.output!r}", where=self.pipeline.name,
                              hint=f"outputs: {', '.join(result)}")
        return rankings


def from_langchain(documents: Iterable[LangChainDocument]) -> Iterator[Document]:
    """LangChain documents (what its loaders and splitters give) as a corpus; ``build_index`` takes them as they are,
    too.

    See ``indexers.corpus.langchain`` for their ids.
    """
    seen: Counter[str] = Counter()
    return (one_from_langchain(document, seen) for document in documents)


def _metadata(hit: Any) -> dict[str, Any]:
    passage = hit.passage
    return {**passage.metadata, "passage_id": passage.id, "document_id": passage.document_id, "title": passage.title,
            "start": passage.start, "end": passage.end, "score": hit.score}
