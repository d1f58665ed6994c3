"""HTML to text on Python's own parser, as its events come: no tree is built, so time and memory go with the length of
the page."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from html.parser import HTMLParser

from .decoding import without_huge_references

_DROPPED = frozenset({
    "head", "script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "form", "button", "select",
})
_NOT_PROSE = frozenset({"script", "style", "template", "rt", "rp"})
"""Elements whose own text is no part of a heading's or a listing's."""

_PARAGRAPHS = (
    "address", "article", "aside", "blockquote", "body", "details", "dl", "div", "fieldset", "figure", "footer", "h1",
    "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "main", "ol", "p", "pre", "section", "table", "ul",
)
_LINES = ("br", "caption", "dd", "dt", "figcaption", "li", "summary", "tr")
_CELLS = ("td", "th")
_BREAKS = {**dict.fromkeys(_PARAGRAPHS, "\n\n"), **dict.fromkeys(_LINES, "\n"), **dict.fromkeys(_CELLS, " ")}
_EMPTY = frozenset({  # elements that hold nothing (HTML standard, section 13.1.2, and its obsolete ones)
    "area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr", "image", "img", "input",
    "isindex", "keygen",
    "link", "menuitem", "meta", "nextid", "param", "source", "spacer", "track", "wbr",
})
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*(?:["']\s*)?([\w.:-]+)""", re.IGNORECASE)
_READ_AS = {"iso8859-1": "cp1252", "ascii": "cp1252"}
_NO_CHARSETS = frozenset({"idna", "punycode"})  # Python's alone, and they take the square of the length
_SPACE = re.compile(r"[ \t\n\r\f\v]+")

_UNKNOWN_SECTION = re.compile(r"<(?=!\[(?!(?:temp|cdata|ignore|include|rcdata|if|else|endif)(?![-_.a-z0-9])))",
                              re.IGNORECASE)
_ENDS = tuple((re.compile(opening), re.compile(closing)) for opening, closing in (
    (r"<(?=!--)", r"--\s*>"), (r"<(?=!\[)", r"\]\s*\]\s*>"), ("<", ">"),
))


def declared_encoding(data: bytes) -> str | None:
    """The encoding that a ``<meta charset>`` in the first 4 kB names, read as browsers read it (WHATWG Encoding
    Standard)."""
    match = _CHARSET.search(data[:4096])
    if not match:
        return None
    try:
        name = codecs.lookup(match.group(1).decode("ascii", "replace")).name
    except LookupError:
        return None
    if name in _NO_CHARSETS:
        return None
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else _READ_AS.get(name, name)


def content(markup: str) -> tuple[str, str]:
    """``(title, text)``: no scripts, styles, navigation or forms; blocks become paragraphs, ``<pre>`` keeps its layout.

    The title is the first ``<title>``'s text, else the first ``<h1>``'s.
    """
    page = _Page()
    page.feed(_closed(markup))
    page.close()
    page.end()
    heading = page.headings.get("title", page.headings.get("h1", []))
    return _SPACE.sub(" ", "".join(heading)).strip(), page.text.joined()


def _closed(markup: str) -> str:
    """``markup`` in which a ``<`` whose construct never ends is text.

    The parser takes it for text too, but looks for the end through the rest of the page first: so many of them would
    take the square of their number. Sections with a name that it does not know (``<![foo``), which it refuses, become
    text as well.
    """
    markup = _UNKNOWN_SECTION.sub("&lt;", without_huge_references(markup))
    for opening, closing in _ENDS:
        end = max((match.end() for match in closing.finditer(markup)), default=0)
        markup = markup[:end] + opening.sub("&lt;", markup[end:])
    return markup


class _Page(HTMLParser):
    """Follows which elements are open. An end tag closes what was opened inside its element; one without an element is
    ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.text = _Layout()
        self.headings: dict[str, list[str]] = {}
        self._stack: list[str] = []
        self._open: Counter[str] = Counter()
        self._data: list[str] = []  # one run of text between two tags
        self._heading = ""  # the heading that is being collected, and how deep it lies
        self._heading_depth = 0
        self._listing: list[str] | None = None
        self._listing_depth = 0
        self._dropped_depth = 0  # the outermost element that is left out

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs) if tag in _EMPTY else self._enter(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._enter(tag)
        self._leave()

    def handle_endtag(self, tag: str) -> None:
        self._flush()
        if self._open[tag]:
            while self._leave() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self._data.append(data)

    def handle_comment(self, data: str) -> None:
        self._flush()

    def handle_decl(self, decl: str) -> None:
        self._flush()

    def handle_pi(self, data: str) -> None:
        self._flush()

    def unknown_decl(self, data: str) -> None:
        self._flush()
        if data.upper().startswith("CDATA["):
            self._data.append(data[len("CDATA["):])
            self._flush()

    def end(self) -> None:
        """The page ends; so does everything in it."""
        self._flush()
        while self._stack:
            self._leave()

    def _enter(self, tag: str) -> None:
        self._flush()
        self._stack.append(tag)
        self._open[tag] += 1
        depth = len(self._stack)
        if tag not in self.headings and (tag == "title" or (tag == "h1" and not self._heading_depth)):
            self._heading, self._heading_depth, self.headings[tag] = tag, depth, []
        if self._dropped_depth or self._listing_depth:
            return
        if tag in _DROPPED:
            self._dropped_depth = depth
            return
        self.text.gap(_BREAKS.get(tag, ""))
        if tag == "pre":
            self._listing, self._listing_depth = [], depth

    def _leave(self) -> str:
        """Close the innermost element; its name."""
        self._flush()
        depth, tag = len(self._stack), self._stack.pop()
        self._open[tag] -= 1
        if depth == self._heading_depth:
            self._heading_depth = 0
        if depth == self._listing_depth:
            self.text.add("".join(self._listing or ()).strip("\n"), verbatim=True)
            self._listing, self._listing_depth = None, 0
        if depth == self._dropped_depth:
            self._dropped_depth = 0
        elif not self._dropped_depth and not self._listing_depth:
            self.text.gap(_BREAKS.get(tag, ""))
        return tag

    def _flush(self) -> None:
        if not self._data:
            return
        data, self._data = "".join(self._data), []
        if any(self._open[tag] for tag in _NOT_PROSE):
            return
        if self._heading_depth:
            self.headings[self._heading].append(data)
        if self._listing is not None:
            self._listing.append(data)
        elif not self._dropped_depth:
            self.text.add(data)


class _Layout:
    """Text with white space collapsed in running text; between blocks the widest break that was asked for."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._gap = ""

    def joined(self) -> str:
        return "".join(self._out)

    def gap(self, mark: str) -> None:
        self._gap = max(self._gap, mark, key=lambda gap: (gap.count("\n"), len(gap)))

    def add(self, text: str, *, verbatim: bool = False) -> None:
        trail = False
        if not verbatim:
            text = _SPACE.sub(" ", text)
            lead, text, trail = text[:1].isspace(), text.strip(" "), text[-1:].isspace()
            self._gap = self._gap or (" " if lead else "")
        if not text.strip(" \n"):
            self.gap(text or (" " if trail else ""))
            return
        if self._out:
            self._out.append(self._gap)
        self._out.append(text)
        self._gap = " " if trail else ""
