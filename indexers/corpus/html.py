"""HTML to text through Beautiful Soup and Python's own parser: the same result whatever other parsers are installed."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

_DROPPED = frozenset({
    "head", "script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "form", "button", "select",
})
_PARAGRAPHS = (
    "address", "article", "aside", "blockquote", "body", "details", "dl", "div", "fieldset", "figure", "footer", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "main", "ol", "p", "pre", "section", "table", "ul",
)
_LINES = ("br", "caption", "dd", "dt", "figcaption", "li", "summary", "tr")
_CELLS = ("td", "th")
_BREAKS = {**dict.fromkeys(_PARAGRAPHS, "\n\n"), **dict.fromkeys(_LINES, "\n"), **dict.fromkeys(_CELLS, " ")}
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_READ_AS = {"iso8859-1": "cp1252", "ascii": "cp1252"}
_SPACE = re.compile(r"[ \t\n\r\f\v]+")


def declared_encoding(data: bytes) -> str | None:
    """The encoding that a ``<meta charset>`` in the first 4 kB names, read as browsers read it (WHATWG Encoding Standard)."""
    match = _CHARSET.search(data[:4096])
    if not match:
        return None
    try:
        name = codecs.lookup(match.group(1).decode("ascii", "replace")).name
    except LookupError:
        return None
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else _READ_AS.get(name, name)


def content(markup: str) -> tuple[str, str]:
    """``(title, text)``: no scripts, styles, navigation or forms; blocks become paragraphs, ``<pre>`` keeps its layout."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(markup, "html.parser")
    heading = soup.title or soup.h1
    return (_SPACE.sub(" ", heading.get_text()).strip() if heading else ""), _assemble(_pieces(soup))


def _pieces(soup: Any) -> Iterator[tuple[str, bool]]:
    """``(text, verbatim)`` in document order; breaks come as verbatim ``"\\n\\n"`` and ``"\\n"``. Iterative: markup nests deep."""
    from bs4 import CData, NavigableString, Tag

    todo: list[Any] = [soup]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            yield node
        elif isinstance(node, Tag):
            if node.name in _DROPPED:
                continue
            edge = (_BREAKS.get(node.name, ""), True)
            inside = [(node.get_text().strip("\n"), True)] if node.name == "pre" else node.contents
            todo.extend((edge, *reversed(inside), edge))
        elif type(node) in (NavigableString, CData):  # not comments and doctypes, which are subclasses too
            yield str(node), False


def _assemble(pieces: Iterator[tuple[str, bool]]) -> str:
    """Collapse white space in running text; between blocks keep the widest break that was asked for."""
    out: list[str] = []
    gap = ""
    for text, verbatim in pieces:
        if not verbatim:
            text = _SPACE.sub(" ", text)
            lead, text, trail = text[:1].isspace(), text.strip(" "), text[-1:].isspace()
            gap = gap or (" " if lead else "")
        else:
            trail = False
        if not text.strip(" \n"):
            gap = max(gap, text or (" " if trail else ""), key=lambda mark: (mark.count("\n"), len(mark)))
            continue
        if out:
            out.append(gap)
        out.append(text)
        gap = " " if trail else ""
    return "".join(out)
