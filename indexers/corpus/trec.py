"""TREC's SGML: ``<DOC> <DOCNO> id </DOCNO> ... <TEXT> ... </TEXT> </DOC>``, plain or gzipped, one file or a folder of
shards."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from ...rag.nouns import Document
from .decoding import BinaryData, decode, without_huge_references
from .limits import Limits
from .lines import Refuse, count, lines, members
from .skips import OnSkip, Skip, Unreadable

SUFFIXES = (".trec", ".trec.gz", ".sgml", ".sgml.gz", ".trectext", ".trectext.gz")
_BORDER = re.compile(rb"(</?DOC>)", re.IGNORECASE)
_NAMES = ("DOCNO",)
_TITLES = ("TITLE", "HEADLINE", "HEAD", "HL", "TTL", "TI")
_NUMBERS = ("DOCNO", "DOCID", "DOCHDR", "FILEID")
_TEXT = re.compile(r"<TEXT>(.*?)(?:</TEXT>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def read(path: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """Documents in the order of the file. The text is what ``<TEXT>`` holds (everything but ids and title where there
    is none).

    A document without ``<DOCNO>`` or text, or that is never closed, is a skip at the line where it starts.
    """
    def refuse(location: str, reason: str) -> None:
        on_skip(Skip(source, location, reason))

    for file in members(path, SUFFIXES, limits, refuse):
        for number, data in _raw_documents(file, limits, refuse):
            try:
                yield limits.checked(_document(data))
            except Unreadable as error:
                refuse(f"{file}:{number}", str(error))


def estimate(path: Path) -> int | None:
    counts = [count(file, b"</DOC>") for file in members(path, SUFFIXES, Limits(), lambda *_: None)]
    return None if None in counts else sum(filter(None, counts))


def _raw_documents(file: Path, limits: Limits, refuse: Refuse) -> Iterator[tuple[int, bytes]]:
    """``(line where it starts, bytes between <DOC> and </DOC>)``."""
    start, last, whole, body = 0, 0, True, bytearray()
    for number, line in lines(file, limits, refuse):
        whole, last = whole and number == last + 1, number  # a line that was left out takes its document with it
        for piece in _BORDER.split(line):
            border = piece.upper() if len(piece) <= len(b"</DOC>") else b""
            if border in (b"<DOC>", b"</DOC>"):
                if border == b"</DOC>" and start and whole:
                    yield start, bytes(body)
                elif start:
                    refuse(f"{file}:{start}",
                           _incomplete(limits) if border == b"</DOC>" else "the document has no </DOC>")
                start, whole, body = (number if border == b"<DOC>" else 0), True, bytearray()
            elif start and whole:
                whole = len(body) + len(piece) <= limits.record_bytes
                body += piece if whole else b""
    if start:
        refuse(f"{file}:{start}", "the document has no </DOC>")


def _incomplete(limits: Limits) -> str:
    return str(limits.over(f"a document of more than {limits.record_bytes:,} bytes", "record_bytes"))


def _document(data: bytes) -> Document:
    markup, _ = decode(data)
    name = next((markup[start:end].strip() for _, start, end, _ in _elements(markup, _NAMES)), "")
    if not name:
        raise BinaryData("the document has no <DOCNO>")
    title = next((markup[start:end] for _, start, end, _ in _elements(markup, _TITLES)), "")
    body = "\n\n".join(match.group(1).strip() for match in _TEXT.finditer(markup))
    text = _plain(body) or _plain(_without(_without(markup, _NUMBERS), _TITLES))
    heading = " ".join(_plain(title).split())
    if not text:
        text, heading = heading, ""
    if not text:
        raise BinaryData("the document has no text")
    return Document(name, text, heading)


def _elements(markup: str, names: tuple[str, ...]) -> Iterator[tuple[int, int, int, int]]:
    """``(begin, start of the content, its end, end)`` of each element, up to the first end tag of its name; none inside
    another.

    One pass over the tags, whatever they are: a start tag that is never closed is found not to be, not looked for.
    """
    tags = re.compile(rf"<(/?)({'|'.join(names)})>", re.IGNORECASE)
    last = {match.group(2).upper(): match.start() for match in tags.finditer(markup) if match.group(1)}
    opened: re.Match[str] | None = None
    for match in tags.finditer(markup):
        closing, name = match.group(1), match.group(2).upper()
        if opened is None:
            if not closing and last.get(name, -1) > match.start():
                opened = match
        elif closing and name == opened.group(2).upper():
            yield opened.start(), opened.end(), match.start(), match.end()
            opened = None


def _without(markup: str, names: tuple[str, ...]) -> str:
    kept, after = [], 0
    for begin, _, _, end in _elements(markup, names):
        kept.append(markup[after:begin])
        after = end
    return "".join([*kept, markup[after:]])


def _plain(markup: str) -> str:
    return html.unescape(without_huge_references(_TAG.sub("", markup))).strip()
