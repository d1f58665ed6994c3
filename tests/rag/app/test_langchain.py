from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from regard.indexers import build_index
from regard.rag import Pipeline, Query
from regard.rag.app.integrations.langchain import RegardRetriever, from_langchain
from regard.rag.errors import ConfigError
from regard.retrievers import BM25


def _pipeline(index: Path) -> Pipeline:
    p = Pipeline()
    return p.output(passages=p.add(BM25(index), p.input(Query)))


def test_a_pipeline_is_a_langchain_retriever(facts_index: Path,
                                             facts: list) -> None:  # type: ignore[type-arg]  # Documents
    retriever = RegardRetriever(pipeline=_pipeline(facts_index), k=2)
    found = retriever.invoke("yeast in the dough")
    assert found[0].metadata["document_id"] == "bread"
    assert len(found) <= 2
    document = next(d for d in facts if d.id == "bread")
    assert found[0].page_content == document.text[found[0].metadata["start"]:found[0].metadata["end"]]
    assert found[0].metadata["year"] == 2002
    assert asyncio.run(retriever.ainvoke("yeast in the dough")) == found


class TestLangChainsOwnSuite(RetrieversIntegrationTests):
    """What LangChain asks of every retriever."""

    @pytest.fixture(autouse=True)
    def _index(self, facts_index: Path) -> None:
        self.index = facts_index

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return RegardRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"pipeline": _pipeline(self.index)}

    @property
    def retriever_query_example(self) -> str:
        return "the surface of a flea, the moon and bread dough rises"


class _Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
        self.events.append(("start", query))

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.events.append(("end", len(documents)))

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.events.append(("error", type(error).__name__))


def test_a_batch_is_one_run_of_the_pipeline(facts_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = RegardRetriever(pipeline=_pipeline(facts_index))
    one_by_one = [retriever.invoke(query) for query in ("yeast in the dough", "flea eggs")]
    runs: list[Any] = []
    run = Pipeline.run
    monkeypatch.setattr(Pipeline, "run", lambda self, *values: (runs.append(values), run(self, *values))[1])
    heard = _Heard()
    queries = ["yeast in the dough", " ", "flea eggs"]
    assert retriever.batch(queries, {"callbacks": [heard]}) == [one_by_one[0], [], one_by_one[1]]
    assert runs == [(["yeast in the dough", "flea eggs"],)]
    assert [event for event in heard.events if event[0] == "start"] == [("start", query) for query in queries]
    assert [event[1] for event in heard.events if event[0] == "end"] == [len(one_by_one[0]), 0, len(one_by_one[1])]
    assert asyncio.run(retriever.abatch(queries, k=1)) == [one_by_one[0][:1], [], one_by_one[1][:1]]
    assert len(runs) == 2
    assert retriever.batch([]) == []


def test_an_error_in_a_batch_is_every_querys(facts_index: Path) -> None:
    retriever, heard = RegardRetriever(pipeline=_pipeline(facts_index), output="answer"), _Heard()
    errors: list[Any] = retriever.batch(["flea", "moon"], {"callbacks": [heard]}, return_exceptions=True)
    assert [type(error) for error in errors] == [ConfigError, ConfigError]
    assert [event for event in heard.events if event[0] == "error"] == [("error", "ConfigError")] * 2
    with pytest.raises(ConfigError, match="outputs: passages"):
        retriever.batch(["flea", "moon"])


def test_a_query_without_text_finds_nothing(facts_index: Path) -> None:
    retriever = RegardRetriever(pipeline=_pipeline(facts_index))
    assert retriever.invoke("") == retriever.invoke(" \n") == []
    with pytest.raises(ConfigError, match="k is 0"):
        retriever.invoke("flea", k=0)


def test_an_output_that_is_no_ranking_is_named(facts_index: Path) -> None:
    with pytest.raises(ConfigError, match="outputs: passages"):
        RegardRetriever(pipeline=_pipeline(facts_index), output="answer").invoke("yeast")


def test_langchain_documents_are_a_corpus(tmp_path: Path) -> None:
    fleas = LangChainDocument("Fleas bite.", metadata={"source": "fleas.txt", "title": "Fleas"})
    loaded = [fleas, LangChainDocument("Moons orbit.", id="m")]
    assert [d.id for d in from_langchain(loaded)] == ["fleas.txt", "m"]
    build_index(from_langchain(loaded), tmp_path, encoder=None, chunker="whole", progress=False)
    assert RegardRetriever(pipeline=_pipeline(tmp_path)).invoke("fleas")[0].metadata["title"] == "Fleas"
