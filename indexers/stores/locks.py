"""The lock of an index, or of one of its views: one process at a time writes. The kernel drops it when the process
dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...rag.errors import StorageError
from ...rag.files import make_folder

_FILE = ".lock"


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the folder ``path`` (an index, or one of its views); the kernel drops it when the process dies.

    Raises ``StorageError`` when another process holds it, unless it is to ``wait``.
    """
    with storage_errors(path, "the folder cannot be made"):
        make_folder(path)
        file = (path / _FILE).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError("another job is writing to this index", where=str(path),
                               hint="wait for it, or stop it") from None
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the index's lock now."""
    try:
        with (path / _FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


@contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the file system's and a store's refusals (``OSError``, ``RuntimeError``) into a ``StorageError``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).split(", /home/runner")[0][:300]  # without the place in a native library's source
        raise StorageError(f"{what}: {reason}", where=str(path),
                           hint="free some space or check the permissions, then run the same command "
                           "again: it goes on where it stopped") from error
