"""Plain and gzipped files line by line, and how many documents such a file holds."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ...rag.errors import CorpusError
from .limits import Limits
from .opening import open_source, require_inside, require_regular
from .skips import Unreadable

Refuse = Callable[[str, str], None]
"""Called with the location and the reason of what is left out."""

_SAMPLE = 64 << 20
_PIECE = 1 << 20
_REACH = 1_000_000_000  # bytes: how far the end of a line that is too long is looked for
_RATIO_FROM = 64_000_000


def lines(path: Path, limits: Limits, refuse: Refuse) -> Iterator[tuple[int, bytes]]:
    """``(number from 1, line)``, without a byte-order mark. A line over ``record_bytes`` is refused and passed over in
    pieces.

    A gzip file that breaks off raises ``CorpusError`` after the last whole line: dropping an unknown part of a corpus
    in silence would be worse, and what came before is already with the caller. Of one that grows over a limit, the rest
    is refused.
    """
    number = 0
    try:
        with open_lines(path, limits) as file:
            while line := file.line(limits.record_bytes + 1):
                number += 1
                if len(line) > limits.record_bytes:
                    refuse(f"{path}:{number}",
                           str(limits.over(f"a line of more than {limits.record_bytes:,} bytes", "record_bytes")))
                    file.pass_over(line)
                    continue
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except Unreadable as error:
        refuse(f"{path}:{number}" if number else str(path), f"{error}; the rest of the file is not read")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"the compressed file is damaged ({error}); the {number} lines before that were read",
                          where=str(path),
                          hint="fetch the file again; an index keeps what it has, and a rerun adds the rest") from None
    except OSError as error:
        raise CorpusError(f"the file cannot be read: {error.strerror or error}",
                          where=f"{path}, after line {number}") from None


@contextmanager
def open_lines(path: Path, limits: Limits) -> Iterator[_Lines]:
    """A file line by line, decompressed if its name ends in ``.gz``. Raises ``Unreadable`` for what is neither a file
    nor a pipe."""
    with open_source(path, limits) as raw:
        yield _Lines(raw, limits, packed=path.suffix.lower() == ".gz")


class _Lines:
    """Lines, or pieces of long ones, with an eye on how a compressed file grows."""

    def __init__(self, raw: BinaryIO, limits: Limits, *, packed: bool) -> None:
        self._limits = limits
        self._read = 0
        self._compressed = _Counted(raw) if packed else None
        self._file = gzip.GzipFile(fileobj=cast(BinaryIO, self._compressed)) if packed else raw

    def line(self, size: int) -> bytes:
        """The next line with its end, or its next ``size`` bytes; empty at the end. Raises ``OverLimit``."""
        piece = self._file.readline(size)
        self._read += len(piece)
        if self._compressed is not None:
            self._check_growth(self._compressed.bytes)
        return piece

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes."""
        return self._file.read(size)

    def pass_over(self, piece: bytes) -> None:
        """To the end of the line that ``piece`` is of. Raises ``Unreadable`` where it has none within reach."""
        furthest = self._read + _REACH
        while piece and not piece.endswith(b"\n"):
            if self._read > furthest:
                raise Unreadable(f"no line ends within {_REACH:,} bytes")
            piece = self.line(_PIECE)

    def _check_growth(self, compressed: int) -> None:
        if self._read > self._limits.decompressed_bytes:
            raise self._limits.over(f"a file of more than {self._read:,} bytes when decompressed", "decompressed_bytes")
        if self._read > _RATIO_FROM and self._read > compressed * self._limits.decompressed_ratio:
            raise self._limits.over(f"a file that grows {self._read // compressed} times when decompressed",
                                    "decompressed_ratio")


class _Counted:
    """How many bytes of a file were read, for a pipe cannot tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        return data


def count(path: Path, mark: bytes) -> int | None:
    """How often ``mark`` occurs: exact up to 64 MB, extrapolated from the first 64 MB beyond; None for a damaged
    file."""
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


def members(path: Path, suffixes: tuple[str, ...], limits: Limits, refuse: Refuse) -> Iterator[Path]:
    """The file itself, or the shards of a folder: its files with one of ``suffixes``, sorted by name."""
    if not path.is_dir():
        yield path
        return
    shards = sorted(p for p in path.iterdir() if p.name.lower().endswith(suffixes)
                    and not p.name.startswith((".", "_")))
    if not shards:
        raise CorpusError(f"the folder has no file ending in {' or '.join(suffixes)}", where=str(path))
    for shard in shards:
        try:
            require_inside(shard, path, limits)
            require_regular(shard)
        except Unreadable as error:
            refuse(str(shard), str(error))
        else:
            yield shard
