"""The door to the corpus readers: find the format, read it, and say about how many documents to expect."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...rag.errors import CorpusError
from ...rag.nouns import Document
from . import files, jsonl, parquet, python_docs, trec
from .decoding import well_formed
from .limits import Limits
from .lines import open_lines
from .skips import OnSkip, Unreadable

FORMATS = ("auto", "folder", "jsonl", "beir", "trec", "parquet", "python")
_READERS = {"folder": files, "jsonl": jsonl, "beir": jsonl, "trec": trec, "parquet": parquet}
_BY_NAME = ((jsonl.SUFFIXES, "jsonl"), (trec.SUFFIXES, "trec"), (parquet.SUFFIXES, "parquet"))
_MAGIC = ((b"PAR1", "parquet"), (b"%PDF", "folder"), (b"<DOC>", "trec"), (b"{", "jsonl"))


def read_corpus(source: str | Path, *, format: str = "auto", limits: Limits | None = None,
                on_skip: OnSkip) -> Iterator[Document]:
    """Stream the documents of ``source``, in a fixed order, one in memory at a time.

    ``format`` is one of ``FORMATS``; ``auto`` asks :func:`detect_format`. ``on_skip`` gets a :class:`.Skip` for every
    document that could not be read or goes over one of ``limits``. Ids need not be unique here: the indexing job sees
    to that. Texts are valid Unicode (a lone surrogate becomes U+FFFD) and have ``\\n`` line ends when they come from
    files. Raises ``CorpusError`` at once for a missing path or an unknown format, and while streaming, after the
    documents before the damage, for a source that breaks off (a truncated gzip file, a disk error).
    """
    found, limits = _checked(source, format), limits or Limits()
    if found == "python":
        documents = python_docs.read(str(source), on_skip)
    else:
        path = jsonl.beir_corpus(Path(source), limits) if found == "beir" else Path(source)
        documents = _READERS[found].read(path, str(source), limits, on_skip)
    return map(_storable, documents)


def detect_format(source: str | Path) -> str:
    """The format of ``source``: by prefix (``python:``), folder layout, file name, or first bytes. Raises
    ``CorpusError`` if nothing fits."""
    if str(source).startswith(python_docs.PREFIX):
        return "python"
    path = Path(source)
    try:
        if path.is_dir():
            return _folder_format(path)
        if not path.exists():
            raise CorpusError("there is nothing at this path", where=str(source), hint="check the path")
        name = path.name.lower()
        for suffixes, format in _BY_NAME:
            if name.endswith(suffixes):
                return format
        return _sniff(path)
    except Unreadable as error:
        raise CorpusError(f"the source is {error}", where=str(source)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"the source cannot be read: {error}", where=str(source)) from None


def estimate_size(source: str | Path, format: str = "auto") -> int | None:
    """About how many documents ``source`` has, for progress bars; None when that is not cheaply known. Reads at most
    64 MB of a file, and nothing of a pipe."""
    found = _checked(source, format)
    if found == "python":
        return sum(1 for _ in python_docs.read(str(source), lambda skip: None))
    path = jsonl.beir_corpus(Path(source), Limits(outside_links=True)) if found == "beir" else Path(source)
    if not path.is_dir() and not path.is_file():
        return None
    size: int | None = _READERS[found].estimate(path)
    return size


def _checked(source: str | Path, format: str) -> str:
    if format not in FORMATS:
        raise CorpusError(f"there is no corpus format {format!r}", where=str(source),
                          hint=f"formats: {', '.join(FORMATS)}")
    found = detect_format(source) if format == "auto" else format
    if found != "python":
        _require_readable(Path(source), source)
    return found


def _require_readable(path: Path, source: str | Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise CorpusError("there is nothing at this path", where=str(source), hint="check the path") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISFIFO(mode)):
        raise CorpusError("a device or a socket is no corpus", where=str(source),
                          hint="name a file, a folder or a pipe")


def _folder_format(folder: Path) -> str:
    """BEIR by its corpus file; a folder of nothing but JSON lines, TREC or Parquet shards by their names; else a folder
    of files."""
    if jsonl.find_beir_corpus(folder) is not None:
        return "beir"
    names = [path.name.lower() for path in folder.iterdir() if not path.name.startswith((".", "_"))]
    for suffixes, format in _BY_NAME:
        if names and all(name.endswith(suffixes) for name in names):
            return format
    return "folder"


def _sniff(path: Path) -> str:
    """By the first bytes; a file that names itself a text is one, unless it is TREC's."""
    if not path.is_file():
        raise CorpusError("a pipe or a device does not show its format", where=str(path), hint="pass its format")
    with open_lines(path, Limits()) as file:
        head = file.head(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((format for magic, format in _MAGIC if head[:len(magic)].upper() == magic), None)
    if path.suffix.lower() in files.SUFFIXES:
        return "trec" if found == "trec" else "folder"
    if found is not None:
        return found
    raise CorpusError("the format of this file is not known", where=str(path),
                      hint=f"pass its format: {', '.join(FORMATS[1:])}")


def _storable(document: Document) -> Document:
    """The document with every lone surrogate replaced: neither UTF-8 nor Arrow can hold one."""
    return replace(
        document, id=well_formed(document.id), text=well_formed(document.text), title=well_formed(document.title),
        metadata=_storable_value(document.metadata),
    )


def _storable_value(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(str(key)): _storable_value(item) for key, item in value.items()}
    return [_storable_value(item) for item in value] if isinstance(value, list | tuple) else value
