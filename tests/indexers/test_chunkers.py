"""Chunkers: exact spans, budgets kept, nothing lost, whatever the text."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from regard.indexers.chunkers.chunkers import FixedTokens, MarkdownSections, Sentences, TokenStarts, WholeDocument, chunker
from regard.indexers.corpus import read_corpus
from regard.indexers.corpus.markdown import headings
from regard.rag.errors import ConfigError, ModelNotFound, UnsupportedModel
from regard.rag.nouns import Document
from regard.rag.text import sentence_spans, words

TEXT = "One two three. Four five six seven. Eight nine ten eleven twelve thirteen fourteen. Fifteen."

pieces = st.sampled_from([
    "The pump is on. ", "Dr. Who? ", "# Title\n", "## Sub *x*\n\n", "a\n===\n", "```\n# not\n```\n", "\r\n", "\n\n", "> # quoted\n",
    "- # item\n", "---\n", "日本語のテキスト。", "😀😀😀", "e\u0301", "\ud800", "\x00", "\u2028", "\x1c",
    "antidisestablishmentarianism ", "www.a-b.c/d?e=f ",
])
texts = st.one_of(st.text(st.characters(), max_size=80), st.lists(pieces, max_size=30).map("".join))
chunkers = st.one_of(
    st.just(WholeDocument()),
    st.builds(
        lambda kind, budget, overlap, tokenizer: kind(budget, min(overlap, budget - 1), tokenizer),
        st.sampled_from([Sentences, FixedTokens, MarkdownSections]), st.integers(1, 12), st.integers(0, 8),
        st.sampled_from(["minilm", "words"]),
    ),
)


def tokens(text: str, tokenizer: str = "minilm") -> int:
    return len(TokenStarts.of(text, tokenizer).starts)


@settings(max_examples=400, deadline=None)
@given(text=texts, chunk=chunkers)
@example(text=" 0 0:0", chunk=FixedTokens(2, 1, "words"))  # two words that share their start
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
    assert chunker(chunk.spec) == chunk


@settings(max_examples=200, deadline=None)
@given(text=texts, kind=st.sampled_from([Sentences, FixedTokens, MarkdownSections]), budget=st.integers(2, 12), data=st.data())
def test_no_passage_is_over_its_budget(text, kind, budget, data):
    overlap = data.draw(st.integers(0, budget - 1))
    starts = TokenStarts.of(text, "minilm")
    passages = kind(budget, overlap).chunk(Document("d", text))
    for passage in passages:
        one_character = len(passage.text) == 1  # a Hangul syllable is up to three tokens, and cannot be cut
        assert starts.count(passage.start, passage.end) <= budget or one_character
    for before, after in pairwise(passages):
        assert starts.count(after.start, before.end) <= overlap


def test_sentences_are_packed_whole_and_overlap():
    def cut(budget, overlap):
        return [p.text for p in Sentences(budget, overlap, "words").chunk(Document("d", TEXT))]

    first, second, third, fourth = (TEXT[a:b] for a, b in sentence_spans(TEXT))
    assert cut(7, 0) == [f"{first} {second}", third, fourth]
    assert cut(12, 4) == [f"{first} {second}", f"{second} {third} {fourth}"]
    assert cut(11, 4) == [f"{first} {second}", f"{second} {third}", fourth]
    assert cut(100, 10) == [TEXT]
    assert cut(3, 0) == [first, "Four five six", "seven.", "Eight nine ten", "eleven twelve thirteen", "fourteen. Fifteen."]


def test_fixed_tokens_slide_by_budget_less_overlap():
    passages = FixedTokens(4, 1, "words").chunk(Document("d", TEXT))
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
    for passage in Sentences(50, 10).chunk(Document("d", text)):
        assert len(model.encode(passage.text, add_special_tokens=False).ids) <= 50


def test_a_document_longer_than_a_segment_is_tokenised_piece_by_piece():
    text = "The quick brown foxes jumped over lazily sleeping dogs. " * 9000
    assert tokens(text) == tokens("The quick brown foxes jumped over lazily sleeping dogs. ") * 9000
    assert sum(1 for _ in FixedTokens(128, 0).chunk(Document("d", text))) == -(-tokens(text) // 128)


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
    passages = MarkdownSections(300).chunk(Document("d", MARKDOWN, metadata={"lang": "en"}))
    assert [(p.metadata.get("section"), p.text.split("\n")[0]) for p in passages] == [
        (None, "---"), ("Guide > Install", "# Guide"), ("Guide > Usage", "Usage"), ("Guide > Usage > deep part", "### `deep` part"),
    ]
    assert passages[1].text.endswith("# not a heading\n```")
    assert all(p.metadata["lang"] == "en" for p in passages)
    small = MarkdownSections(7).chunk(Document("d", MARKDOWN))
    assert [p.text for p in small if p.metadata.get("section") == "Guide > Usage"][-1] == "Use it often."
    assert MarkdownSections().chunk(Document("d", "No heading at all."))[0].metadata == {}


def test_headings_know_their_lines_under_any_line_end():
    for end in ("\n", "\r\n", "\r"):
        text = MARKDOWN.replace("\n", end)
        if end != "\r":  # front matter is recognised with these
            assert [(h.level, h.text) for h in headings(text)] == [(1, "Guide"), (2, "Install"), (2, "Usage"), (3, "deep part")]
        lines = [text[h.start:h.end].strip().split(end)[0] for h in headings(text)]
        assert lines[-4:] == ["# Guide", "## Install", "Usage", "### `deep` part"]


@pytest.mark.parametrize(("spec", "made"), [
    ("whole", WholeDocument()), ("sentences", Sentences()), ("sentences:200,overlap=40", Sentences(200, 40)),
    ("tokens:64", FixedTokens(64)), ("tokens,budget=9,overlap=0", FixedTokens(9, 0)),
    (" markdown : 300 , tokenizer=words", MarkdownSections(300, tokenizer="words")),
])
def test_specs(spec, made):
    assert chunker(spec) == made
    assert chunker(chunker(spec).spec) == made


@pytest.mark.parametrize("spec", [
    "", "words", "sentences:x", "sentences:0", "sentences:-3", "sentences:40", "tokens:8,overlap=8", "whole:3", "tokens:9,overlap",
    "tokens:9,stride=2", "tokens:9,budget=8", "tokens:9,", "tokens:9,tokenizer=",
])
def test_a_bad_spec_lists_the_forms_or_the_limits(spec):
    with pytest.raises(ConfigError) as caught:
        chunker(spec)
    assert "overlap" in str(caught.value.hint)


def test_the_fingerprint_tells_settings_and_tokenizers_apart():
    prints = [chunker(s).fingerprint() for s in ("whole", "sentences", "sentences:100", "tokens", "sentences,tokenizer=words",
                                                 "sentences,tokenizer=bge-small")]
    assert len({repr(p) for p in prints}) == len(prints)
    assert chunker("sentences").fingerprint() == Sentences(200, 40, "minilm").fingerprint()


def test_a_tokenizer_that_is_not_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Sentences(tokenizer=str(tmp_path)).chunk(Document("d", "text"))
    with pytest.raises(ModelNotFound):
        Sentences(tokenizer="nobody/no-such-model").chunk(Document("d", "text"))


@pytest.mark.data
def test_real_abstracts_are_chunked_within_budget(shared_data):
    cut = Sentences(100, 20)
    for number, document in enumerate(read_corpus(shared_data / "scifact", on_skip=print)):
        passages = cut.chunk(document)
        assert passages[0].start == len(document.text) - len(document.text.lstrip())
        assert all(tokens(p.text) <= 100 for p in passages)
        if number == 200:
            break
