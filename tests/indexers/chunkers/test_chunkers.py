"""Chunkers: exact spans, budgets kept, nothing lost, whatever the text."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from regard.indexers.chunkers import Chunker, Markdown, Sentences, Tokens, Whole
from regard.indexers.chunkers.token_starts import TokenStarts
from regard.indexers.corpus import read_corpus
from regard.indexers.corpus.markdown import headings
from regard.rag.errors import ConfigError, ModelNotFound, UnsupportedModel
from regard.rag.nouns import Document
from regard.rag.parts import part
from regard.rag.text import sentence_spans, words

TEXT = "One two three. Four five six seven. Eight nine ten eleven twelve thirteen fourteen. Fifteen."

pieces = st.sampled_from([
    "The pump is on. ", "Dr. Who? ", "# Title\n", "## Sub *x*\n\n", "a\n===\n", "```\n# not\n```\n", "\r\n", "\n\n",
    "> # quoted\n",
    "- # item\n", "---\n", "日本語のテキスト。", "😀😀😀", "e\u0301", "\ud800", "\x00", "\u2028", "\x1c",
    "antidisestablishmentarianism ", "www.a-b.c/d?e=f ",
])
texts = st.one_of(st.text(st.characters(), max_size=80), st.lists(pieces, max_size=30).map("".join))
chunkers = st.one_of(
    st.just(Whole()),
    st.builds(
        lambda kind, budget, overlap, tokenizer: kind(budget, overlap=min(overlap, budget - 1), tokenizer=tokenizer),
        st.sampled_from([Sentences, Tokens, Markdown]), st.integers(1, 12), st.integers(0, 8),
        st.sampled_from(["minilm", "words"]),
    ),
)


def tokens(text: str, tokenizer: str = "minilm") -> int:
    return len(TokenStarts.of(text, tokenizer).starts)


@settings(max_examples=400, deadline=None)
@given(text=texts, chunk=chunkers)
@example(text=" 0 0:0", chunk=Tokens(2, overlap=1, tokenizer="words"))  # two words that share their start
def test_spans_are_exact_ordered_and_leave_out_only_white_space(text, chunk):
    document = Document("d", text, "T", {"lang": "en"})
    passages = chunk.chunk(document)
    covered = 0
    for passage in passages:
        assert passage.text == text[passage.start:passage.end]
        assert passage.text == passage.text.strip() != ""
        assert not text[covered:passage.start].strip()
        assert passage.end > covered
        covered = passage.end
        assert (passage.document_id, passage.title, passage.metadata["lang"]) == ("d", "T", "en")
    assert not text[covered:].strip()
    whole = chunk.spec == "whole"
    assert [p.id for p in passages] == ["d" if whole else f"d#{n}" for n in range(len(passages))]
    assert chunk.chunk(document) == passages
    assert part(Chunker, chunk.spec) == chunk


@settings(max_examples=200, deadline=None)
@given(text=texts, kind=st.sampled_from([Sentences, Tokens, Markdown]), budget=st.integers(2, 12), data=st.data())
def test_no_passage_is_over_its_budget(text, kind, budget, data):
    overlap = data.draw(st.integers(0, budget - 1))
    starts = TokenStarts.of(text, "minilm")
    passages = kind(budget, overlap=overlap).chunk(Document("d", text))
    for passage in passages:
        one_character = len(passage.text) == 1  # a Hangul syllable is up to three tokens, and cannot be cut
        assert starts.count(passage.start, passage.end) <= budget or one_character
    for before, after in pairwise(passages):
        assert starts.count(after.start, before.end) <= overlap


def test_sentences_are_packed_whole_and_overlap():
    def cut(budget, overlap):
        return [p.text for p in Sentences(budget, overlap=overlap, tokenizer="words").chunk(Document("d", TEXT))]

    first, second, third, fourth = (TEXT[a:b] for a, b in sentence_spans(TEXT))
    assert cut(7, 0) == [f"{first} {second}", third, fourth]
    assert cut(12, 4) == [f"{first} {second}", f"{second} {third} {fourth}"]
    assert cut(11, 4) == [f"{first} {second}", f"{second} {third}", fourth]
    assert cut(100, 10) == [TEXT]
    assert cut(3, 0) == [first, "Four five six", "seven.", "Eight nine ten", "eleven twelve thirteen",
                         "fourteen. Fifteen."]


def test_fixed_tokens_slide_by_budget_less_overlap():
    passages = Tokens(4, overlap=1, tokenizer="words").chunk(Document("d", TEXT))
    assert [words(p.text)[0] for p in passages] == ["one", "four", "seven", "ten", "thirteen"]
    assert [len(words(p.text)) for p in passages] == [4, 4, 4, 4, 3]


def test_counts_are_the_models_own():
    from regard.rag.models import resolve
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(Path(resolve("minilm").path) / "tokenizer.json"))
    model.no_truncation()
    model.no_padding()
    text = " ".join(["An antidisestablishmentarian café, naïvely re-tokenised: 3.14159!"] * 60)
    assert tokens(text) == len(model.encode(text, add_special_tokens=False).ids) > 512
    for passage in Sentences(50, overlap=10).chunk(Document("d", text)):
        assert len(model.encode(passage.text, add_special_tokens=False).ids) <= 50


def test_a_document_longer_than_a_segment_is_tokenised_piece_by_piece():
    text = "The quick brown foxes jumped over lazily sleeping dogs. " * 9000
    assert tokens(text) == tokens("The quick brown foxes jumped over lazily sleeping dogs. ") * 9000
    assert sum(1 for _ in Tokens(128, overlap=0).chunk(Document("d", text))) == -(-tokens(text) // 128)


MARKDOWN = """---
title: Guide
---
Before.

# Guide

## Install

Run it.

```sh
# not a heading
```

Usage
-----
Use it. Use it well. Use it often.

### `deep` part
> # quoted is no section

End.
"""


def test_markdown_sections_have_their_path():
    passages = Markdown(300).chunk(Document("d", MARKDOWN, metadata={"lang": "en"}))
    assert [(p.metadata.get("section"), p.text.split("\n")[0]) for p in passages] == [
        (None, "---"), ("Guide > Install", "# Guide"), ("Guide > Usage", "Usage"),
        ("Guide > Usage > deep part", "### `deep` part"),
    ]
    assert passages[1].text.endswith("# not a heading\n```")
    assert all(p.metadata["lang"] == "en" for p in passages)
    small = Markdown(7).chunk(Document("d", MARKDOWN))
    assert [p.text for p in small if p.metadata.get("section") == "Guide > Usage"][-1] == "Use it often."
    assert Markdown().chunk(Document("d", "No heading at all."))[0].metadata == {}


def test_headings_know_their_lines_under_any_line_end():
    for end in ("\n", "\r\n", "\r"):
        text = MARKDOWN.replace("\n", end)
        if end != "\r":  # front matter is recognised with these
            assert [(h.level, h.text) for h in headings(text)] == [(1, "Guide"), (2, "Install"), (2, "Usage"),
                                                                   (3, "deep part")]
        lines = [text[h.start:h.end].strip().split(end)[0] for h in headings(text)]
        assert lines[-4:] == ["# Guide", "## Install", "Usage", "### `deep` part"]


@pytest.mark.parametrize(("spec", "made"), [
    ("whole", Whole()), ("sentences", Sentences()), ("sentences:200,overlap=40", Sentences(200, overlap=40)),
    ("tokens:64", Tokens(64)), ("tokens,budget=9,overlap=0", Tokens(9, overlap=0)),
    (" markdown : 300 , tokenizer=words", Markdown(300, tokenizer="words")),
])
def test_specs(spec, made):
    assert part(Chunker, spec) == made
    assert part(Chunker, part(Chunker, spec).spec) == made


@pytest.mark.parametrize(("spec", "hint"), [
    ("", "Sentences"), ("words", "Sentences"), ("sentence", "did you mean Sentences"), ("sentences:x", "overlap"),
    ("sentences:0", "overlap"), ("sentences:-3", "overlap"), ("sentences:40", "overlap"),
    ("tokens:8,overlap=8", "overlap"),
    ("whole:3", "settings: none"), ("tokens:9,overlap", "overlap"), ("tokens:9,stride=2", "overlap"),
    ("tokens:9,budget=8", "once"),
    ("tokens:9,", "overlap"), ("tokens:9,tokenizer=", "tokenizer=VALUE"),
    ("tokens:9,overlop=2", "did you mean overlap"),
])
def test_a_bad_spec_lists_the_names_or_the_settings(spec, hint):
    with pytest.raises(ConfigError) as caught:
        part(Chunker, spec)
    assert hint in str(caught.value.hint)


SPECS = ("whole", "sentences", "sentences:100", "tokens", "sentences:tokenizer=words", "sentences:tokenizer=bge-small")


def test_the_recipe_tells_settings_and_tokenizers_apart():
    for recipes in ([part(Chunker, spec).recipe() for spec in SPECS],
                    [part(Chunker, spec).fingerprint() for spec in SPECS]):
        assert len({repr(recipe) for recipe in recipes}) == len(SPECS)
    assert part(Chunker, "sentences").recipe() == Sentences(200, overlap=40, tokenizer="minilm").recipe()


def test_what_an_index_keeps_of_its_chunker_is_what_it_always_was():
    """Values that the code wrote before chunkers were parts (commit c776efc): such an index is not chunked again."""
    minilm, bge = "865394eda149516b04a30602d6b19444", "0b11d683923065503370e44809507913"
    written = {
        "whole": {"chunker": "whole", "version": 1},
        "sentences:200,overlap=40": {"chunker": "sentences", "version": 1, "budget": 200, "overlap": 40,
                                     "tokenizer": "minilm",
                                     "tokenizer_hash": minilm},
        "tokens:33,overlap=5": {"chunker": "tokens", "version": 1, "budget": 33, "overlap": 5, "tokenizer": "minilm",
                                "tokenizer_hash": minilm},
        "markdown:300,overlap=0": {"chunker": "markdown", "version": 1, "budget": 300, "overlap": 0,
                                   "tokenizer": "minilm",
                                   "tokenizer_hash": minilm},
        "sentences:50,overlap=40,tokenizer=bge-small": {"chunker": "sentences", "version": 1, "budget": 50,
                                                        "overlap": 40,
                                                        "tokenizer": "bge-small", "tokenizer_hash": bge},
        "tokens:20,overlap=1,tokenizer=words": {"chunker": "tokens", "version": 1, "budget": 20, "overlap": 1,
                                                "tokenizer": "words",
                                                "tokenizer_hash": "regard.rag.text.words"},
    }
    assert {spec: part(Chunker, spec).spec for spec in written} == {spec: spec for spec in written}
    assert {spec: part(Chunker, spec).recipe() for spec in written} == written


def test_a_tokenizer_that_is_not_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Sentences(tokenizer=str(tmp_path)).chunk(Document("d", "text"))
    with pytest.raises(ModelNotFound):
        Sentences(tokenizer="nobody/no-such-model").chunk(Document("d", "text"))


@pytest.mark.data
def test_real_abstracts_are_chunked_within_budget(shared_data):
    cut = Sentences(100, overlap=20)
    for number, document in enumerate(read_corpus(shared_data / "scifact", on_skip=print)):
        passages = cut.chunk(document)
        assert passages[0].start == len(document.text) - len(document.text.lstrip())
        assert all(tokens(p.text) <= 100 for p in passages)
        if number == 200:
            break
