"""HTML, Markdown and TREC's markup against slower readers of the same: a tree, a full parse, backtracking regular
expressions."""

from __future__ import annotations

import html as standard_html
import itertools
import re
from collections.abc import Iterator
from typing import Any

from bs4 import BeautifulSoup, CData, NavigableString, Tag
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from regard.indexers.corpus import html, markdown, trec
from regard.indexers.corpus.skips import Unreadable


def _pieces(soup: Any) -> Iterator[tuple[str, bool]]:
    todo: list[Any] = [soup]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            yield node
        elif isinstance(node, Tag):
            if node.name in html._DROPPED:
                continue
            edge = (html._BREAKS.get(node.name, ""), True)
            inside = [(node.get_text().strip("\n"), True)] if node.name == "pre" else node.contents
            todo.extend((edge, *reversed(inside), edge))
        elif type(node) in (NavigableString, CData):
            yield str(node), False


def _from_tree(markup: str) -> tuple[str, str]:
    """Title and text by way of Beautiful Soup's tree."""
    soup = BeautifulSoup(markup, "html.parser")
    out: list[str] = []
    gap = ""
    for text, verbatim in _pieces(soup):
        trail = False
        if not verbatim:
            text = re.sub(r"[ \t\n\r\f\v]+", " ", text)
            lead, text, trail = text[:1].isspace(), text.strip(" "), text[-1:].isspace()
            gap = gap or (" " if lead else "")
        if not text.strip(" \n"):
            gap = max(gap, text or (" " if trail else ""), key=lambda mark: (mark.count("\n"), len(mark)))
            continue
        out += [gap, text] if out else [text]
        gap = " " if trail else ""
    heading = soup.title or soup.h1
    return re.sub(r"[ \t\n\r\f\v]+", " ", heading.get_text()).strip() if heading else "", "".join(out)


_ELEMENTS = ("p", "b", "div", "li", "ul", "pre", "title", "h1", "nav", "td", "table", "svg", "head", "body", "form",
             "textarea", "rt")
_HTML = st.sampled_from([
    *(f"<{name}>" for name in _ELEMENTS), *(f"</{name}>" for name in _ELEMENTS), "<br>", "<hr>", "<img alt='>'>",
    "<b/>", "<!-- c -->",
    "<!doctype html>", "<?pi>", "<script>x</script>", "<style>", "</style>", "<p class=a id='b'>", "a", "b ", "\n",
    "  ", "x\ny", "&amp;",
    "&lt;", "&nbsp;", "&#65;", "&#128;", "é",
])


@settings(max_examples=300)
@given(st.lists(_HTML, max_size=30).map("".join))
def test_html_is_read_as_its_tree_is(markup: str) -> None:
    assert html.content(markup) == _from_tree(markup)


_BROKEN = st.sampled_from(["<", ">", "<a", "<!--", "-->", "<![", "]]>", "<![CDATA[", "<?", "</", "&", "&#", ";", "'",
                           '"', "=", "x", " "])


@given(st.lists(_BROKEN, max_size=40).map("".join))
def test_any_markup_is_read(markup: str) -> None:
    html.content(markup)


def test_what_is_never_closed_is_text() -> None:
    assert html.content("<p>1 <a href='x")[1] == "1 <a href='x"
    assert html.content("a <!-- b <i>c</i>")[1] == "a <!-- b c"
    assert html.content("a <![foo b")[1] == "a <![foo b"
    assert html.content("a <!-- b -- > c")[1] == "a c"
    assert html.content("a &#" + "9" * 5000 + "; c")[1] == "a \ufffd c"


_MARKDOWN = st.sampled_from(["# ", "## ", "a", "b", "*", "_", "`", "[x]", "(u)", "[x]: u\n", "\n", "\n\n", "- ", "> ",
                             "===\n", "---\n",
                             "\\*", "&amp;", "<b>", "![i](u)", "  ", "```\n", "    ", "\r\n", "<!-- x -->"])


@settings(max_examples=300)
@given(st.lists(_MARKDOWN, max_size=25).map("".join))
def test_headings_are_those_of_a_full_parse(text: str) -> None:
    expected = []
    for token, inline in itertools.pairwise(MarkdownIt("commonmark").parse(text)):
        if token.type == "heading_open" and token.level == 0:
            plain = "".join(child.content for child in inline.children or [] if child.type in ("text", "code_inline"))
            expected.append((int(token.tag[1]), plain.strip()))
    if not text.startswith("---"):  # that may be front matter
        assert [(heading.level, heading.text) for heading in markdown.headings(text)] == expected


_TITLE = re.compile(r"<(TITLE|HEADLINE|HEAD|HL|TTL|TI)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_NUMBERS = re.compile(r"<(DOCNO|DOCID|DOCHDR|FILEID)>.*?</\1>", re.IGNORECASE | re.DOTALL)
_TREC = st.sampled_from([*(f"<{slash}{name}>" for name in ("TI", "ti", "TITLE", "HL", "DOCNO", "docid", "TEXT")
                           for slash in ("", "/")),
                         "a", " b", "\n", "<i>", "&amp;", "<", ">"])


@settings(max_examples=300)
@given(st.lists(_TREC, max_size=25).map("".join))
def test_trec_markup_is_read_as_by_backtracking(markup: str) -> None:
    def plain(part: str) -> str:
        return standard_html.unescape(trec._TAG.sub("", part)).strip()

    name = re.search(r"<DOCNO>(.*?)</DOCNO>", markup, re.IGNORECASE | re.DOTALL)
    title = _TITLE.search(markup)
    body = "\n\n".join(match.group(1).strip() for match in trec._TEXT.finditer(markup))
    text = plain(body) or plain(_TITLE.sub("", _NUMBERS.sub("", markup)))
    heading = " ".join(plain(title.group(2)).split()) if title else ""
    expected = (name.group(1).strip(),
                *((text, heading) if text else (heading, ""))) if name and name.group(1).strip() else None
    try:
        found = trec._document(markup.encode())
    except Unreadable:
        assert expected is None or not expected[1]
    else:
        assert (found.id, found.text, found.title) == expected


def test_an_end_tag_before_its_start_tag_closes_nothing() -> None:
    found = trec._document(b"<DOCNO>1</DOCNO></HL>a<HL>b<TI>t</TI>c")
    assert (found.title, found.text) == ("t", "abc")
