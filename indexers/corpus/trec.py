"""TREC's SGML: ``<DOC> <DOCNO> id </DOCNO> ... <TEXT> ... </TEXT> </DOC>``, plain or gzipped, one file or a folder of shards."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from ...rag.documents import Document
from .decoding import BinaryData, decode
from .lines import count, lines, members
from .skips import OnSkip, Skip

SUFFIXES = (".trec", ".trec.gz", ".sgml", ".sgml.gz", ".trectext", ".trectext.gz")
_BORDER = re.compile(rb"(</?DOC>)", re.IGNORECASE)
_NAME = re.compile(r"<DOCNO>(.*?)</DOCNO>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<(TITLE|HEADLINE|HEAD|HL|TTL|TI)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(r"<TEXT>(.*?)(?:</TEXT>|\Z)", re.IGNORECASE | re.DOTALL)
_NUMBERS = re.compile(r"<(DOCNO|DOCID|DOCHDR|FILEID)>.*?</\1>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def read(path: Path, source: str, on_skip: OnSkip) -> Iterator[Document]:
    """Documents in the order of the file. The text is what ``<TEXT>`` holds (everything but ids and title where there is none).

    A document without ``<DOCNO>`` or text, or that is never closed, is a skip at the line where it starts.
    """
    for file in members(path, SUFFIXES):
        for number, data in _raw_documents(file, source, on_skip):
            try:
                yield _document(data)
            except BinaryData as error:
                on_skip(Skip(source, f"{file}:{number}", str(error)))


def estimate(path: Path) -> int | None:
    counts = [count(file, b"</DOC>") for file in members(path, SUFFIXES)]
    return None if None in counts else sum(filter(None, counts))


def _raw_documents(file: Path, source: str, on_skip: OnSkip) -> Iterator[tuple[int, bytes]]:
    """``(line where it starts, bytes between <DOC> and </DOC>)``."""
    start, parts = 0, list[bytes]()
    for number, line in lines(file):
        for piece in _BORDER.split(line):
            border = piece.upper()
            if border in (b"<DOC>", b"</DOC>"):
                if border == b"</DOC>" and start:
                    yield start, b"".join(parts)
                elif start:
                    on_skip(Skip(source, f"{file}:{start}", "the document has no </DOC>"))
                start, parts = (number if border == b"<DOC>" else 0), []
            elif start:
                parts.append(piece)
    if start:
        on_skip(Skip(source, f"{file}:{start}", "the document has no </DOC>"))


def _document(data: bytes) -> Document:
    markup, _ = decode(data)
    name = _NAME.search(markup)
    if not name or not name.group(1).strip():
        raise BinaryData("the document has no <DOCNO>")
    title = _TITLE.search(markup)
    body = "\n\n".join(match.group(1).strip() for match in _TEXT.finditer(markup))
    text = _plain(body) or _plain(_TITLE.sub("", _NUMBERS.sub("", markup)))
    heading = " ".join(_plain(title.group(2)).split()) if title else ""
    if not text:
        text, heading = heading, ""
    if not text:
        raise BinaryData("the document has no text")
    return Document(name.group(1).strip(), text, heading)


def _plain(markup: str) -> str:
    return html.unescape(_TAG.sub("", markup)).strip()
