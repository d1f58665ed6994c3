from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from langchain_core.documents import Document as LangChainDocument
from regard.indexers import build_index
from regard.rag import Pipeline, Query
from regard.rag.errors import ConfigError
from regard.rag.integrations.langchain import RegardRetriever, from_langchain
from regard.retrievers import BM25


def _pipeline(index: Path) -> Pipeline:
    p = Pipeline()
    return p.output(passages=p.add(BM25(index), p.input(Query)))


def test_a_pipeline_is_a_langchain_retriever(facts_index: Path, facts: list) -> None:  # type: ignore[type-arg]  # Documents
    retriever = RegardRetriever(pipeline=_pipeline(facts_index), k=2)
    found = retriever.invoke("yeast in the dough")
    assert found[0].metadata["document_id"] == "bread"
    assert len(found) <= 2
    document = next(d for d in facts if d.id == "bread")
    assert found[0].page_content == document.text[found[0].metadata["start"]:found[0].metadata["end"]]
    assert found[0].metadata["year"] == 2002
    assert asyncio.run(retriever.ainvoke("yeast in the dough")) == found


def test_an_output_that_is_no_ranking_is_named(facts_index: Path) -> None:
    with pytest.raises(ConfigError, match="outputs: passages"):
        RegardRetriever(pipeline=_pipeline(facts_index), output="answer").invoke("yeast")


def test_langchain_documents_are_a_corpus(tmp_path: Path) -> None:
    fleas = LangChainDocument("Fleas bite.", metadata={"source": "fleas.txt", "title": "Fleas"})
    loaded = [fleas, LangChainDocument("Moons orbit.", id="m")]
    assert [d.id for d in from_langchain(loaded)] == ["fleas.txt", "m"]
    build_index(from_langchain(loaded), tmp_path, encoder=None, chunker="whole", progress=False)
    assert RegardRetriever(pipeline=_pipeline(tmp_path)).invoke("fleas")[0].metadata["title"] == "Fleas"
