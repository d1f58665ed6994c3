"""Folders of .txt, .md, .html and .pdf files, or one such file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...rag.documents import Document
from ...rag.errors import CorpusError
from . import html, markdown, pdf
from .decoding import BinaryData, decode
from .skips import OnSkip, Skip

_MARKDOWN = frozenset({".md", ".markdown"})
_HTML = frozenset({".html", ".htm"})
SUFFIXES = frozenset({".txt", ".pdf"}) | _MARKDOWN | _HTML


def read(path: Path, source: str, on_skip: OnSkip) -> Iterator[Document]:
    """Documents of a folder, recursively, in sorted order, or of one file; the id is the POSIX path relative to the folder.

    Hidden files and folders (a leading dot) are ignored. Every other file that gives no document is a skip with its reason.
    """
    if path.is_dir():
        return _read_folder(path, source, on_skip)
    return _read_files([path], path.parent, source, on_skip)


def estimate(path: Path) -> int | None:
    """How many files have a known suffix; nothing is opened."""
    return sum(file.suffix.lower() in SUFFIXES for file in _walk(path, lambda _: None)) if path.is_dir() else 1


def _read_folder(folder: Path, source: str, on_skip: OnSkip) -> Iterator[Document]:
    def refused(error: OSError) -> None:
        if error.filename == str(folder):
            raise CorpusError(f"the folder cannot be read: {error.strerror}", where=source)
        on_skip(Skip(source, str(error.filename), f"the folder cannot be read: {error.strerror}"))

    return _read_files(_walk(folder, refused), folder, source, on_skip)


def _walk(folder: Path, refused: Callable[[OSError], None]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _read_files(paths: Iterator[Path] | list[Path], root: Path, source: str, on_skip: OnSkip) -> Iterator[Document]:
    for path in paths:
        name = _name(path, root)
        try:
            yield _document(path, name)
        except (BinaryData, pdf.UnreadablePdf) as error:
            on_skip(Skip(source, name, str(error)))
        except OSError as error:
            on_skip(Skip(source, name, f"cannot be read: {error.strerror or error}"))


def _name(path: Path, root: Path) -> str:
    """The id; a file name that is no valid UTF-8 is shown with escapes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _document(path: Path, name: str) -> Document:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BinaryData(f"no reader for {suffix or 'files without a suffix'} (known: {', '.join(sorted(SUFFIXES))})")
    if not path.is_file():  # opening a pipe or a device would wait for ever
        raise BinaryData("not a regular file, or a broken link")
    title, text, metadata = _content(path, suffix)
    if not text.strip():
        raise BinaryData("the file has no text")
    return Document(name, text, title or path.stem, metadata)


def _content(path: Path, suffix: str) -> tuple[str, str, dict[str, Any]]:
    """Title (perhaps empty), text, metadata."""
    if suffix == ".pdf":
        return pdf.content(path)
    data = path.read_bytes()
    text, encoding = decode(data, html.declared_encoding(data) if suffix in _HTML else None)
    metadata = {} if encoding == "utf-8" else {"encoding": encoding}
    if suffix in _HTML:
        return *html.content(text), metadata
    return (markdown.title(text) if suffix in _MARKDOWN else ""), text, metadata
