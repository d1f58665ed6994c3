"""Plain and gzipped files line by line, and how many documents such a file holds."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ...rag.errors import CorpusError

_SAMPLE = 64 << 20


@contextmanager
def open_lines(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if its name ends in ``.gz``."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield raw


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """``(number from 1, line)``, without a byte-order mark.

    A gzip file that breaks off raises ``CorpusError`` after the last whole line: dropping an unknown part of a corpus in silence
    would be worse, and what came before is already with the caller.
    """
    number = 0
    try:
        with open_lines(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"the compressed file is damaged ({error}); the {number} lines before that were read", where=str(path),
                          hint="fetch the file again; an index keeps what it has, and a rerun adds the rest") from None
    except OSError as error:
        raise CorpusError(f"the file cannot be read: {error.strerror or error}", where=f"{path}, after line {number}") from None


def count(path: Path, mark: bytes) -> int | None:
    """How often ``mark`` occurs: exact up to 64 MB, extrapolated from the first 64 MB beyond; None for a damaged file."""
    try:
        with path.open("rb") as raw:
            file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
            seen, found, last = 0, 0, b""
            while seen < _SAMPLE and (block := file.read(1 << 20)):
                found += block.count(mark)
                seen, last = seen + len(block), block
            complete = not file.read(1)
            share = raw.tell() / max(1, os.fstat(raw.fileno()).st_size)
    except (OSError, EOFError, zlib.error):
        return None
    unterminated = mark == b"\n" and complete and last != b"" and not last.endswith(b"\n")
    return found + unterminated if complete else round(found / share)


def members(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or the shards of a folder: its files with one of ``suffixes``, sorted by name."""
    if not path.is_dir():
        return [path]
    shards = sorted(p for p in path.iterdir() if p.name.lower().endswith(suffixes) and not p.name.startswith((".", "_")))
    if not shards:
        raise CorpusError(f"the folder has no file ending in {' or '.join(suffixes)}", where=str(path))
    return shards
