"""Every chunker of the table, and those that another distribution brings (``tests/third_party``): exact spans, nothing
lost, whatever the text; and an index that it was made with knows it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.indexers import build_index
from regard.indexers.chunkers import Chunker, Sentences, Tokens
from regard.indexers.corpus import Limits
from regard.indexers.corpus.skips import Unreadable
from regard.indexers.jobs.chosen import models_not_chosen
from regard.indexers.stores.lance.store import LanceStore
from regard.rag.errors import ConfigError
from regard.rag.nouns import Document, Passage
from regard.rag.parts import part, register
from regard.rag.tables import table
from regard.rag.text import Span

CHUNKERS = Chunker.table().names()
pieces = st.sampled_from([
    "The pump is on. ", "Dr. Who? ", "# Title\n", "## Sub *x*\n\n", "```\n# not\n```\n", "\r\n", "\n\n", "\n \n",
    "日本語のテキスト。",
    "😀😀😀", "e\u0301", "\ud800", "\x00", "\u2028", "\x1c", "antidisestablishmentarianism ", "www.a-b.c/d?e=f ", "\t",
    " " * 9,
])
texts = st.one_of(st.text(st.characters(), max_size=60), st.lists(pieces, max_size=30).map("".join))
LONG = ("A sentence of eight words stands just here. " * 7 + "\n\n## Part\n\n") * 300


def made(name: str) -> Chunker:
    return part(Chunker, name)


# -- the contract --------------------------------------------------------------------------


def expect_exact(chunker: Chunker, document: Document) -> list[Passage]:
    """Passages are pieces of the text as it is, in order, each further than the one before, with what belongs to the
    document."""
    passages = chunker.chunk(document)
    text, covered, begun = document.text, 0, 0
    for passage in passages:
        assert 0 <= passage.start < passage.end <= len(text)
        assert type(passage.start) is type(passage.end) is int
        assert passage.text == text[passage.start:passage.end] == passage.text.strip()
        assert passage.start >= begun
        assert passage.end > covered
        assert not chunker.lossless or not text[covered:passage.start].strip()
        assert (passage.document_id, passage.title) == (document.id, document.title)
        assert passage.metadata.items() >= document.metadata.items()
        covered, begun = passage.end, passage.start
    assert not chunker.lossless or not text[covered:].strip()
    assert len({passage.id for passage in passages}) == len(passages)
    return passages


def expect_the_same_again(chunker: Chunker, document: Document) -> None:
    assert chunker.chunk(document) == chunker.chunk(document) == part(Chunker, chunker.spec).chunk(document)


# -- each chunker --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHUNKERS)
@settings(max_examples=60)
@given(text=texts)
def test_spans_are_exact_and_nothing_is_lost(name: str, text: str) -> None:
    document = Document("d", text, "T", {"lang": "en"})
    passages = expect_exact(made(name), document)
    assert bool(passages) == bool(text.strip()) or not made(name).lossless
    expect_the_same_again(made(name), document)


@pytest.mark.parametrize("name", CHUNKERS)
@pytest.mark.parametrize("text", ["", " \n\t\r\n ", "\x00", "\ud800", "x", "#", "# ", "\n\n\n", "a" * 5000],
                         ids=lambda t: repr(t)[:9])
def test_texts_that_are_hardly_texts(name: str, text: str) -> None:
    expect_exact(made(name), Document("d", text))


@pytest.mark.parametrize("name", CHUNKERS)
@pytest.mark.parametrize("text", [LONG, "word " * 40_000, "x" * 200_000, "\n" * 200_000, "# h\n" * 4_000], ids=[
    "sections", "words", "letters", "lines", "headings"])
def test_a_huge_text_takes_no_more_than_its_length_asks(name: str, text: str) -> None:
    start = time.perf_counter()
    expect_exact(made(name), Document("d", text))
    assert time.perf_counter() - start < 20  # what is quadratic takes minutes


@pytest.mark.parametrize("name", CHUNKERS)
def test_limits_hold(name: str) -> None:
    """No passage is over the limit, or the document is left out; and not more is stored than may be."""
    document = Document("d", LONG, "T")
    try:
        passages = made(name).chunk(document, Limits(passage_characters=200))
    except Unreadable:
        passages = []
    assert max((len(passage.text) for passage in passages), default=0) <= 200
    assert all(passage.text == document.text[passage.start:passage.end] for passage in passages)
    with pytest.raises(Unreadable):
        made(name).chunk(document, Limits(stored_characters=100, passage_characters=100))


@pytest.mark.parametrize("name", CHUNKERS)
def test_an_index_can_make_it_again(name: str) -> None:
    chunker = made(name)
    assert chunker.spec == chunker.spec.lower()
    assert part(Chunker, chunker.spec) == part(Chunker, name) == part(Chunker, name.upper()) == chunker
    assert json.loads(json.dumps(chunker.recipe())) == chunker.recipe()
    assert chunker.recipe()["chunker"] == name.lower()
    assert chunker.recipe().keys() >= {"version", *chunker.setting_names()}
    assert all(isinstance(getattr(chunker, setting), str) for setting in chunker.model_settings)


@pytest.mark.parametrize("name", CHUNKERS)
def test_an_index_made_with_it_goes_on_with_it(name: str, tmp_path: Path) -> None:
    documents = [Document(f"d{i}", f"Text number {i}.\n\nAnd a second paragraph of it.") for i in range(3)]
    first = build_index(documents, tmp_path, encoder=None, chunker=made(name), views=[], progress=False)
    assert LanceStore(tmp_path).manifest["chunker"] == {"spec": made(name).spec, "fingerprint": made(name).recipe()}
    for again in ("auto", made(name), name, made(name).spec):
        report = build_index(documents, tmp_path, encoder=None, chunker=again, views=[], progress=False)
        assert (report.unchanged, report.added) == (3, 0)
        assert report.total_passages == first.total_passages


# -- the suite itself ----------------------------------------------------------------------


class Forgetful(Chunker):
    """Leaves out what comes after the first full stop."""

    def spans(self, text: str) -> Iterable[Span]:
        yield 0, text.find(".") + 1


class Backwards(Chunker):
    """The second half first."""

    def spans(self, text: str) -> Iterable[Span]:
        return [(len(text) // 2, len(text)), (0, len(text) // 2)]


class Beyond(Chunker):
    """A span that ends after the text."""

    def spans(self, text: str) -> Iterable[Span]:
        return [(0, len(text) + 1)]


class Nothing(Chunker):
    """Does not say where passages lie."""


@register
class Session(Sentences):
    """Made in a session."""

    tone: str = "plain"


def test_the_suite_notices_what_breaks_the_contract() -> None:
    document = Document("d", "One is here. Two is there.")
    for broken in (Forgetful(), Backwards()):
        with pytest.raises(AssertionError):
            expect_exact(broken, document)
    for broken, said in ((Beyond(), "from 0 to 27, in a text of 26"), (Nothing(), "does not say where")):
        with pytest.raises(ConfigError, match=said):
            broken.chunk(document)


def test_a_chunker_that_somebody_registers_is_in_the_suite() -> None:
    assert "Paragraphs" in CHUNKERS
    lines = Path(__file__).parents[1].joinpath("third_party", "acme_chunkers.py").read_text().splitlines()
    assert len(lines) < 40, "one file of under 40 lines"
    assert "Session" in Chunker.table().names()


def test_an_index_of_a_chunker_that_is_not_registered(tmp_path: Path) -> None:
    documents = [Document("d", "Some text. And some more.")]
    with pytest.raises(ConfigError, match="not registered") as caught:
        build_index(documents, tmp_path / "a", encoder=None, chunker=Forgetful(), views=[], progress=False)
    assert "@register" in str(caught.value.hint)
    assert not (tmp_path / "a").exists()
    build_index(documents, tmp_path / "b", encoder=None, chunker=Session(5, overlap=0, tone="low"), views=["bm25"],
                progress=False)
    assert LanceStore(tmp_path / "b").manifest["chunker"]["spec"] == "session:5,overlap=0,tone=low"
    assert build_index(documents, tmp_path / "b", encoder=None, views=[], progress=False).unchanged == 1
    table("regard.chunkers").forget("Session")
    try:
        with pytest.raises(ConfigError, match="made with the chunker 'session:5,overlap=0,tone=low'") as caught:
            build_index(documents, tmp_path / "b", encoder=None, views=[], progress=False)
        assert str(tmp_path / "b") in str(caught.value)
        assert "import what registers it" in str(caught.value.hint)
        assert models_not_chosen(tmp_path / "b") == []  # searching it needs no chunker
    finally:
        register(Session)


def test_an_index_of_before_is_found_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the code before this one wrote into its manifest (commit c776efc), nothing is chunked again."""
    written = {"spec": "sentences:9,overlap=2", "fingerprint": {
        "chunker": "sentences", "version": 1, "budget": 9, "overlap": 2, "tokenizer": "minilm",
        "tokenizer_hash": "865394eda149516b04a30602d6b19444"}}
    documents = [Document(f"d{i}", "Some text here. And some more of it there. Then a third sentence.")
                 for i in range(4)]
    build_index(documents, tmp_path, encoder=None, chunker="sentences:9,overlap=2", views=[], progress=False)
    assert LanceStore(tmp_path).manifest["chunker"] == written
    chunked: list[str] = []
    monkeypatch.setattr(Sentences, "chunk", lambda self, document, limits: chunked.append(document.id))
    for chunker in ("auto", "sentences:9,overlap=2", "Sentences:budget=9,overlap=2", Sentences(9, overlap=2)):
        assert build_index(documents, tmp_path, encoder=None, chunker=chunker, views=[], progress=False).unchanged == 4
    assert chunked == []


@pytest.mark.parametrize(("chunker", "said"), [
    ("sentence", "did you mean Sentences"), ("tokens:9,stride=2", "settings: budget"), (5, "Chunker"),
    (Tokens, "call it"),
    (None, "Chunker"), ("", "names"), ({"part": "Tokens", "budget": 0}, "budget"), ({"spec": "whole"}, "part: NAME"),
    ("ICR", "known"),
], ids=str)
def test_what_is_no_chunker_is_refused(chunker: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_index([Document("d", "text")], tmp_path / "i", chunker=chunker, encoder=None, progress=False)
    assert said in str(caught.value)
    assert not (tmp_path / "i").exists()
