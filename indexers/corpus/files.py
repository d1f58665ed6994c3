"""Folders of .txt, .md, .html and .pdf files, or one such file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...rag.errors import CorpusError
from ...rag.extras import need
from ...rag.nouns import Document
from . import html
from .decoding import BinaryData, decode
from .limits import Limits
from .opening import open_file, require_inside
from .parsing import parse
from .skips import OnSkip, Skip, Unreadable

_MARKDOWN = frozenset({".md", ".markdown"})
_HTML = frozenset({".html", ".htm"})
_TITLE = 1000  # characters of a title that was found in the text: a heading may never end
SUFFIXES = frozenset({".txt", ".pdf"}) | _MARKDOWN | _HTML


def read(path: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """Documents of a folder, recursively, in sorted order, or of one file; the id is the POSIX path relative to the
    folder.

    Hidden files and folders (a leading dot) are ignored. Every other file that gives no document is a skip with its
    reason, and so is a link that leads out of the folder.
    """
    if path.is_dir():
        return _read_folder(path, source, limits, on_skip)
    return _read_files([path], path.parent, None, source, limits, on_skip)


def estimate(path: Path) -> int | None:
    """How many files have a known suffix; nothing is opened."""
    return sum(file.suffix.lower() in SUFFIXES
               for file in _Walk(path, Limits(), lambda *_: None)) if path.is_dir() else 1


def _read_folder(folder: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    def refuse(path: str, reason: str) -> None:
        if path == str(folder):
            raise CorpusError(reason, where=source)
        on_skip(Skip(source, path, reason))

    return _read_files(_Walk(folder, limits, refuse), folder, folder, source, limits, on_skip)


class _Walk:
    """The files of a folder, in sorted order. Links to folders are followed only where ``outside_links`` says so, and
    each of these folders once."""

    def __init__(self, folder: Path, limits: Limits, refuse: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._limits = limits
        self._refuse = refuse
        self._followed: set[str] = set()

    def __iter__(self) -> Iterator[Path]:
        return self._files(self._folder)

    def _files(self, top: Path) -> Iterator[Path]:
        for root, folders, names in os.walk(top, onerror=self._unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for link in filter(Path.is_symlink, [Path(root, name) for name in folders]):
                yield from self._linked(link)
            yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))

    def _linked(self, link: Path) -> Iterator[Path]:
        """The files behind a link to a folder. What lies inside the corpus is found where it is."""
        target = os.path.realpath(link)
        try:
            require_inside(link, self._folder, self._limits)
        except Unreadable as error:
            self._refuse(str(link), str(error))
            return
        if not Path(target).is_relative_to(os.path.realpath(self._folder)) and target not in self._followed:
            self._followed.add(target)
            yield from self._files(link)

    def _unreadable(self, error: OSError) -> None:
        self._refuse(str(error.filename), f"the folder cannot be read: {error.strerror}")


def _read_files(
    paths: Iterable[Path], root: Path, within: Path | None, source: str, limits: Limits, on_skip: OnSkip,
) -> Iterator[Document]:
    """``within``: the folder that links must not lead out of."""
    for path in paths:
        name = _name(path, root)
        try:
            if within is not None:
                require_inside(path, within, limits)
            yield limits.checked(_document(path, name, limits))
        except Unreadable as error:
            on_skip(Skip(source, name, str(error)))
        except OSError as error:
            on_skip(Skip(source, name, f"cannot be read: {error.strerror or error}"))


def _name(path: Path, root: Path) -> str:
    """The id; a file name that is no valid UTF-8 is shown with escapes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _document(path: Path, name: str, limits: Limits) -> Document:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BinaryData(f"no reader for {suffix or 'files without a suffix'} (known: {', '.join(sorted(SUFFIXES))})")
    title, text, metadata = _content(path, suffix, limits)
    if not text.strip():
        raise BinaryData("the file has no text")
    return Document(name, text, title[:_TITLE] or path.stem, metadata)


def _content(path: Path, suffix: str, limits: Limits) -> tuple[str, str, dict[str, Any]]:
    """Title (perhaps empty), text, metadata."""
    if suffix == ".pdf":
        need("pypdf", where=str(path))
        title, text, metadata = parse("pdf", _bytes(path, limits.file_bytes, "file_bytes", limits), limits)
        return title, text, metadata
    data = _bytes(path, *_most_bytes_of_text(limits), limits)
    text, encoding = decode(data, html.declared_encoding(data) if suffix in _HTML else None)
    del data
    metadata = {} if encoding == "utf-8" else {"encoding": encoding}
    if suffix in _HTML:
        title, text = parse("html", text.encode(), limits)
        return title, text, metadata
    return (parse("title", text.encode(), limits) if suffix in _MARKDOWN else ""), text, metadata


def _bytes(path: Path, most: int, name: str, limits: Limits) -> bytes:
    """What the file holds, looked at once: what is written to it meanwhile does not count."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise limits.over(f"a file of {size:,} bytes", name)
        return file.read(size or most) or b""


def _most_bytes_of_text(limits: Limits) -> tuple[int, str]:
    """How many bytes a file of text may have (no encoding takes more than four a character), and by which limit."""
    of_text = 4 * limits.document_characters
    return (of_text, "document_characters") if of_text < limits.file_bytes else (limits.file_bytes, "file_bytes")
