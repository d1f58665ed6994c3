"""``RAG``: documents in, answers out. Its index is found again, its models stay loaded, what it cannot do is said."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from regard import RAG, Document, Query
from regard.rag.app.presets import default_pipeline
from regard.rag.errors import ConfigError, CorpusError, EmptyQueryError, IndexNotFound
from regard.rag.models.onnx import OnnxModel


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "My docs & <notes>"
    folder.mkdir()
    (folder / "flea.md").write_text("# Fleas\n\nThe life cycle of a flea lasts from two weeks to eight months.\n")
    (folder / "moon.md").write_text("# Moon\n\nThe Moon orbits the Earth once in about 27 days.\n")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folder of every ONNX model, as it is asked for."""
    asked: list[str] = []
    real = OnnxModel.acquire.__func__  # type: ignore[attr-defined]  # a class method's function
    counted = classmethod(lambda cls, folder: asked.append(folder) or real(cls, folder))
    monkeypatch.setattr(OnnxModel, "acquire", counted)
    return asked


def test_a_folder_answers_as_the_default_pipeline_over_its_index_does(docs: Path, tmp_path: Path) -> None:
    question = "How long does a flea live?"
    with RAG(docs, tmp_path / "index", progress=False) as rag:
        answer, ranking = rag.ask(question), rag.search(question)
    with default_pipeline(tmp_path / "index") as pipeline:
        expected = pipeline.run(question)
    assert answer.text == expected.answer.text
    assert answer.citations == expected.answer.citations != ()
    assert answer.citations[0].document_id == "flea.md"
    assert ranking.rows.tolist() == expected.passages.rows.tolist()
    assert ranking.scores.tolist() == expected.passages.scores.tolist()


def test_its_place_is_said_and_found_again_and_nothing_is_encoded_twice(
    docs: Path, cache: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    first = RAG(docs)
    assert first.index.parent == cache / "indexes"
    assert first.index.name.startswith("My-docs-notes-")
    assert str(first.index) in capsys.readouterr().err
    assert first.report.encoded == 2
    again = RAG(str(docs / ".." / docs.name), progress=False)
    assert capsys.readouterr().err == ""
    assert again.index == first.index
    assert (again.report.unchanged, again.report.encoded) == (2, 0)


def test_what_differs_has_a_place_of_its_own(docs: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "flea.md").write_text("Fleas jump.")
    made = [
        RAG(docs, encoder=None, progress=False), RAG(docs, encoder=None, chunker="whole", progress=False),
        RAG([docs, tmp_path / "more"], encoder=None, progress=False),
        RAG(tmp_path / "more", encoder=None, progress=False),
    ]
    assert len({rag.index for rag in made}) == 4
    assert [rag.report.documents for rag in made] == [2, 2, 3, 1]


def test_documents_in_python_get_a_folder_that_goes_with_the_object() -> None:
    documents = [Document("flea", "A flea lives for months."), Document("moon", "The Moon is far.")]
    rag = RAG(documents, encoder=None, progress=False)
    assert rag.search("flea", 1).passages()[0].document_id == "flea"
    folder = rag.index
    assert folder.exists()
    rag.close()
    del rag
    gc.collect()
    assert not folder.exists()


def test_an_index_that_is_there_needs_no_source(facts_index: Path) -> None:
    rag = RAG(index=facts_index)
    assert rag.report is None
    assert rag.search(Query("honey", filters={"kind": "nothing"})).rows.tolist() == []
    assert rag.search("honey bees", 1).passages()[0].document_id == "honey"
    with pytest.raises(ConfigError, match="no source to read again"):
        rag.update()


def test_update_reads_the_source_again_and_goes_on_with_it(docs: Path, cache: Path, loads: list[str]) -> None:
    with RAG(docs, encoder=None, prune=True, progress=False) as rag:
        assert [p.document_id for p in rag.search("flea").passages()] == ["flea.md"]
        (docs / "cat.md").write_text("Cats have fleas, and a flea likes cats.")
        (docs / "flea.md").unlink()
        report = rag.update()
        assert (report.added, report.pruned) == (1, 1)
        assert rag.report is report
        assert [p.document_id for p in rag.search("flea").passages()] == ["cat.md"]


def test_what_can_be_read_only_once_is_not_read_again() -> None:
    def stream() -> Iterator[Document]:
        yield Document("flea", "A flea lives for months.")

    rag = RAG(stream(), encoder=None, progress=False)
    with pytest.raises(ConfigError, match="no source to read again"):
        rag.update()
    assert rag.search("flea").passages()[0].document_id == "flea"


def test_models_stay_loaded_between_questions_until_it_is_closed(docs: Path, cache: Path, loads: list[str]) -> None:
    rag = RAG(docs, encoder=None, progress=False)
    assert loads == [], "not before the first question"
    rag.search("flea")
    rag.search("moon")
    assert len(loads) == 1
    rag.close()
    rag.search("moon")
    assert len(loads) == 2


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({}, ConfigError, "nothing to ask"),
    ({"source": "/no/such/folder"}, CorpusError, "no/such"),
    ({"source": "s3://bucket/docs"}, ConfigError, "s3"),
    ({"source": 42}, CorpusError, "42|int"),
    ({"index": "/no/such/index"}, IndexNotFound, "no index"),
])
def test_what_cannot_be_is_said(arguments: dict[str, Any], error: type[Exception], message: str, cache: Path) -> None:
    with pytest.raises(error, match=message):
        RAG(**arguments)


def test_questions_that_are_none(facts_index: Path) -> None:
    rag = RAG(index=facts_index)
    with pytest.raises(EmptyQueryError):
        rag.ask("  ")
    with pytest.raises(ConfigError, match="at least 1"):
        rag.search("honey", k=0)


def test_it_shows_itself_and_obeys_nothing_in_a_name(docs: Path, tmp_path: Path) -> None:
    rag = RAG(docs, tmp_path / "index", encoder=None, progress=False)
    assert repr(rag) == f"RAG({str(docs)!r}, index={str(tmp_path / 'index')!r}, 2 passages)"
    page = rag._repr_html_()
    assert "<svg" in page
    assert "&lt;notes&gt;" in page
    assert "<notes>" not in page
