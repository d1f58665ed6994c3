"""The view of attention: the tokens are the passages', the marks are the masses', and nothing becomes markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regard.rag.errors import StageError, StorageError
from regard.rag.lm.evidence import AttentionEvidence
from regard.rag.nouns import Passage, PassageList, Query, Ranking
from regard.rag.show.attention import STEPS
from regard.rag.show.style import ATTENTION, HEAT
from regard.rerankers import ICR, AttentionReranker

TEXTS = [
    ("Flea", "A flea lives for about a hundred days, <b>not</b> more & not less."),
    ("Bread", "Dough rises because of yeast."),
    ("", "[7] The Eiffel Tower is in Paris. It was built in 1889."), ("", "日本 😀 fleas"),
]
QUERY = Query("how long does a flea live")


def first_stage(texts: list[tuple[str, str]]) -> Ranking:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text), title) for i, (title, text) in enumerate(texts)])
    return Ranking.ranked(np.arange(len(texts)), np.arange(len(texts), 0, -1), "bm25", store).marked("bm25")


@pytest.fixture(scope="module")
def stage() -> Iterator[Callable[..., Any]]:
    with AttentionReranker(device="cpu", max_words=20).opened() as run:
        yield run


@pytest.fixture(scope="module")
def ranking(stage: Callable[..., Any]) -> Ranking:
    return stage([QUERY], [first_stage(TEXTS)])[0]


def parse(html: str) -> ET.Element:
    root = ET.fromstring(html)
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in {"script", "img", "iframe", "link", "object"}
        assert not any(name.startswith("on") or name in {"src", "href"} for name in element.attrib)
    return root


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.attrib.get("class", "").split()]


def levels(element: ET.Element) -> list[str]:
    return [name for name in element.attrib.get("class", "").split() if re.fullmatch(r"rg-(up|down)\d", name)]


def test_tokens_are_the_passages_own_and_the_marker_is_apart(ranking: Ranking) -> None:
    view = ranking.show_attention()
    assert len(view.passages) == len(TEXTS)
    for read in view.passages:
        assert "".join(token.text for token in read.marker) == "[1]"
        assert "".join(token.text for token in read.tokens).removeprefix(" ") == read.hit.passage.full_text
        assert all(token.text for token in read.tokens)
        assert read.unread == 0


def test_no_mass_is_lost_in_characters_of_several_tokens(ranking: Ranking) -> None:
    for read, row in zip(ranking.show_attention().passages, ranking.rows, strict=True):
        shown = sum(token.mass for token in (*read.marker, *read.tokens))
        assert shown == pytest.approx(float(ranking.evidence["attention"].tokens[int(row)][1].sum()), abs=1e-6)
        assert shown == pytest.approx(read.mass, abs=1e-6)


def test_the_scale_is_the_largest_of_all_passages_without_the_marker(ranking: Ranking) -> None:
    view = ranking.show_attention()
    assert view.largest == pytest.approx(max(token.mass for read in view.passages for token in read.tokens))
    assert ranking.show_attention(limit=1).largest == view.largest
    held = ranking.evidence["attention"]
    boosted = {row: (ids, np.concatenate([[9.0], mass[1:]]).astype(np.float32))
               for row, (ids, mass) in held.tokens.items()}
    assert ranking.with_evidence(attention=replace(held, tokens=boosted)).show_attention().largest == view.largest


def test_marks_follow_the_masses(ranking: Ranking) -> None:
    view = ranking.show_attention()
    root = parse(view._repr_html_())
    cards = by_class(root, "rg-passage")
    assert len(cards) == len(TEXTS)
    seen = set()
    for card, read in zip(cards, view.passages, strict=True):
        (tokens,) = by_class(card, "rg-tokens")
        shown = "".join(tokens.itertext()).replace("↵", "").replace("␣", "").removeprefix("[1] ")
        assert shown == read.hit.passage.full_text
        marked = {e.text: (levels(e)[0], e.attrib["title"]) for e in tokens if levels(e)}
        for token in read.tokens:
            share = token.mass / view.largest
            level = sum(abs(share) >= step for step in STEPS)
            if level and [t.text.strip() for t in read.tokens].count(token.text.strip()) == 1 and token.text.strip():
                assert marked[token.text.strip()] == (f"rg-{'up' if share > 0 else 'down'}{level}",
                                                      f"{token.mass:+.3g} · {share:.0%}")
                seen.add(level)
    assert len(seen) >= 3
    assert max(seen) == len(STEPS)
    assert [e.text for e in by_class(root, "rg-prompt")[1:]] == ["[1]"] * len(TEXTS)  # the first is the legend's


def test_text_never_becomes_markup_and_the_answering_word_is_marked(ranking: Ranking) -> None:
    html = ranking.show_attention()._repr_html_()
    assert "<b>not" not in html
    root = parse(html)
    assert any(e.text == "flea" and levels(e) and levels(e)[0].startswith("rg-up") for e in root.iter())


def test_the_rest_is_summarised(ranking: Ranking) -> None:
    view = ranking.show_attention(limit=1)
    root = parse(view._repr_html_())
    assert len(by_class(root, "rg-passage")) == 1
    rest = f"and 3 more passages, scores {ranking.scores[1]:.4g} to {ranking.scores[-1]:.4g}"
    assert rest in "".join(root.itertext())
    assert str(view).endswith(rest)


def test_in_a_terminal_the_strongest_tokens_are_named(ranking: Ranking) -> None:
    view = ranking.show_attention()
    caption, *lines = str(view).splitlines()
    assert repr(view) == str(view)
    assert caption == "4 passages · attention of smollm2 · score: weighted-sum"
    assert str(ranking.marked("rerank").show_attention()).startswith(f"{caption}, from stage rerank\n")
    assert len(lines) == len(TEXTS)
    for line, read in zip(lines, view.passages, strict=True):
        strongest = max(read.tokens, key=lambda token: abs(token.mass))
        assert f":  {strongest.text.strip() or '␣'} {strongest.mass:+.3g}" in line


def test_the_page_is_self_contained_and_the_same_each_time(ranking: Ranking, tmp_path: Path) -> None:
    view = ranking.show_attention()
    path = view.save(tmp_path / "attention.html")
    html = path.read_text(encoding="utf-8")
    parse(html.removeprefix("<!DOCTYPE html>\n"))
    assert not re.search(r"https?:|<script|<img|<link|src=|@import|url\(", html)
    assert "default-src 'none'" in html
    assert "<title>Attention of smollm2</title>" in html
    assert "prefers-color-scheme:dark" in html
    assert view.save(str(tmp_path / "again.html")).read_bytes() == path.read_bytes()
    with pytest.raises(StorageError, match="cannot be written"):
        view.save(tmp_path / "no such folder" / "x.html")


def test_what_the_model_did_not_read_is_said() -> None:
    shallow = AttentionReranker(device="cpu", max_words=20, depth=1, keep_tail=True)
    long = "A flea lives for a hundred days. " * 9
    ranking = shallow.apply([QUERY], [first_stage([("", long), ("", "Never read.")])])[0]
    read, unread = ranking.show_attention().passages
    assert read.unread == len(long.strip()) - len("".join(t.text for t in read.tokens).strip()) > 0
    assert (unread.tokens, unread.marker) == ((), ())
    text = "".join(parse(ranking.show_attention()._repr_html_()).itertext())
    assert f"cut off: the last {read.unread} characters" in text
    assert "not read by the model" in text
    assert "not read" in str(ranking.show_attention())


def test_numbered_markers_are_the_prompts_too() -> None:
    numbered = AttentionReranker(device="cpu", policy=ICR())
    ranking = numbered.apply([QUERY], [first_stage(TEXTS * 3)])[0]
    markers = {"".join(token.text for token in read.marker) for read in ranking.show_attention(limit=12).passages}
    assert markers == {f"[{i}]" for i in range(1, 13)}


def test_without_a_reading_the_error_says_what_to_do(ranking: Ranking) -> None:
    for bare in (first_stage(TEXTS), Ranking.from_dict(ranking.to_dict())):
        with pytest.raises(StageError, match="AttentionReranker"):
            bare.show_attention()


def test_an_empty_ranking_and_equal_masses_are_shown(ranking: Ranking) -> None:
    empty = ranking.take([]).show_attention()
    assert str(empty) == "No passages."
    assert "No passages." in "".join(parse(empty._repr_html_()).itertext())
    nothing = {row: (ids, np.zeros(len(ids), np.float32))
               for row, (ids, _) in ranking.evidence["attention"].tokens.items()}
    flat: AttentionEvidence = replace(ranking.evidence["attention"], tokens=nothing)
    root = parse(ranking.with_evidence(attention=flat).show_attention()._repr_html_())
    assert not any(levels(element) for element in root.iter())


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize(("text", "behind"), [((31, 35, 40), (255, 255, 255)), ((230, 237, 243), (13, 17, 23))],
                         ids=["light", "dark"])
def test_marked_text_stays_readable(text: tuple[int, ...], behind: tuple[int, ...]) -> None:
    """WCAG 2.1's contrast of at least 4.5 to 1 for text, on the page's own colours."""
    rules = re.findall(r"\.rg-(?:up|down)(\d)\{background:rgba\((\d+),(\d+),(\d+),([\d.]+)\)", ATTENTION)
    assert len(rules) == 2 * len(HEAT) == 2 * len(STEPS)
    for _, *rgb, opacity in rules:
        mixed = tuple(float(opacity) * int(c) + (1 - float(opacity)) * b for c, b in zip(rgb, behind, strict=True))
        high, low = sorted((luminance(text), luminance(mixed)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_marks_are_told_apart_without_colour() -> None:
    lines = {sign: [float(w) for w in re.findall(rf"\.rg-{sign}\d\{{[^}}]*border-bottom:([\d.]+)px", ATTENTION)]
             for sign in ("up", "down")}
    assert lines["up"] == lines["down"] == [width for _, width in HEAT]
    assert all(a < b for a, b in pairwise(lines["up"]))
    assert ATTENTION.count("solid") == ATTENTION.count("dotted") == len(HEAT)
