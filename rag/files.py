"""Files: paths that users name, files that are there whole or not at all, and lines of plain and gzipped ones.

A path that is none, or cannot be written to, is a typed error, and where it can be before the work.

What a killed process wrote is safe with the operating system; what a power failure may take is what was not synced.
With the environment variable ``REGARD_FSYNC=0`` nothing waits for the disk: what was committed in the last seconds
before a power failure, or an index made in them, may then be lost or damaged.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ConfigError, RegardError, StorageError

_HINT = "name a file in a folder that exists and may be written to"
_ADDRESS = re.compile("([A-Za-z][A-Za-z0-9+.-]+):/")


# -- paths that users name ------------------------------------------------------------------


def local_path(path: Any, where: str) -> Path:
    """``path`` as a ``Path`` of this machine. Raises ``ConfigError`` for what is no path, an address (``s3://...``),
    and a path that nobody can look at (a name too long, a folder that may not be entered)."""
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str):
        raise ConfigError(f"{path!r:.80} is no path", where=where, hint="give a text or a pathlib.Path")
    address = _ADDRESS.match(name)
    if address:
        raise ConfigError(f"{address[1]}: is not a folder of this machine; object stores are not supported",
                          where=f"{where}: {name:.200}",
                          hint="copy it to a local disk, or mount it, and give that path")
    try:
        Path(name).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever opens it says so, or makes it
    except (OSError, ValueError) as error:
        raise ConfigError(f"the path cannot be used: {getattr(error, 'strerror', None) or error}",
                          where=f"{where}: {name:.200}",
                          hint="check the path and the permissions of its folders") from None
    return Path(name)


def expect_writable(path: str | Path) -> None:
    """Raise ``StorageError`` where no file can be written at ``path``: its folder is missing or may not be written to,
    or a folder is there. Long work asks first."""
    target = local_path(path, "file to write")
    try:
        folder = target.parent
        if not folder.is_dir():
            raise StorageError("the file cannot be written: its folder does not exist", where=str(target), hint=_HINT)
        if target.is_dir():
            raise StorageError("the file cannot be written: it is a folder", where=str(target), hint=_HINT)
        allowed = os.access(target if target.exists() else folder, os.W_OK)
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise _refused(target, error) from None
    if not allowed:
        raise StorageError("the file cannot be written: permission denied", where=str(target), hint=_HINT)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8. Raises ``StorageError`` when the disk refuses."""
    target = local_path(path, "file to write")
    try:
        target.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _refused(target, error) from error


def _refused(target: Path, error: Exception) -> StorageError:
    return StorageError(f"the file cannot be written: {getattr(error, 'strerror', None) or error}", where=str(target),
                        hint=_HINT)


# -- whole or not at all, and on the disk ---------------------------------------------------


def sync(*paths: Path) -> None:
    """Have the content of files, and the names in folders, reach the disk."""
    if os.environ.get("REGARD_FSYNC") == "0":
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_files(files: Iterable[Path]) -> None:
    """Have these files reach the disk, and their names in their folders."""
    files = list(files)
    sync(*files, *dict.fromkeys(file.parent for file in files))


def sync_tree(folder: Path) -> None:
    """Have all that lies in ``folder`` reach the disk; its own name is its parent's to sync."""
    inside = list(folder.rglob("*"))
    sync(*(path for path in inside if path.is_file()), *(path for path in inside if path.is_dir()), folder)


def make_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    sync(*(one.parent for one in missing))


def replace_text(file: Path, text: str) -> None:
    """Give ``file`` this content, or leave it as it was; on the disk when it returns. One process at a time may do
    so."""
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


def link_tree(source: Path, target: Path) -> None:
    """Give the folder ``target`` what lies in ``source``: the same files on disk where the file system has hard links,
    else copies."""
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            link_tree(entry, target / entry.name)
            continue
        try:
            os.link(entry, target / entry.name)
        except OSError:
            shutil.copyfile(entry, target / entry.name)


def size_of(folder: Path) -> int:
    """The bytes of all files below ``folder``, each once however many links it has."""
    found: dict[tuple[int, int], int] = {}
    for file in folder.rglob("*"):
        try:
            state = file.lstat()
        except FileNotFoundError:
            continue
        if not file.is_dir():
            found[state.st_dev, state.st_ino] = state.st_size
    return sum(found.values())


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``file`` only when all was written, whoever else writes it; nothing waits for the
    disk."""
    temporary = file.with_name(f".new-{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as written:
            yield written
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


# -- lines ----------------------------------------------------------------------------------


def numbered_lines(
    path: Path, error: type[RegardError], what: str = "the file", hint: str | None = None,
) -> Iterator[tuple[int, bytes]]:
    """``(number from 1, line)`` of each line that is not blank, of a plain or a gzipped file (``.gz``), without a
    byte-order mark.

    Only ``\\n`` ends a line. Raises ``error`` for a file that is damaged or cannot be read (there named ``what``, with
    ``hint``).
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as damage:
        raise error(f"the compressed file is damaged: {damage}", where=f"{path}, after line {number}") from None
    except OSError as refusal:
        raise error(f"{what} cannot be read: {refusal.strerror or refusal}", where=str(path), hint=hint) from None
