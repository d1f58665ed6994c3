"""Which versions of a passage store are in use, in this process or in another.

A reader holds a shared ``flock`` on the manifest file of the version that it reads. That leaves nothing behind: the
kernel drops the lock when the reader closes or dies, and there is no file beside the index to be made or cleaned up, so
a read-only folder works as well. Whoever removes a version takes the exclusive lock first, which fails while there is a
reader, and unlinks the manifest while holding it; a reader that was waiting for its own lock then finds the manifest
gone and opens the newest version instead.

Where the file system has no locks (some network folders), readers on other machines are not seen: keep older versions
there (``keep`` of ``compact``).
"""

from __future__ import annotations

import fcntl
import os
import re
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....rag.errors import IndexFormatError

_HIGHEST = 2**64 - 1
_TRIES = 16


class Lease:
    """A shared lock on one version's manifest, until it is closed or forgotten."""

    def __init__(self, descriptor: int) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)


def leased(open_version: Callable[[], Any]) -> tuple[Any, Lease | None]:
    """What ``open_version`` opens (a Lance dataset), and the lease on its version; None where there is nothing to
    lock."""
    for _ in range(_TRIES):
        dataset = open_version()
        try:
            return dataset, _take(dataset)
        except FileNotFoundError:
            continue  # a compaction removed this version between our opening it and our locking it
    raise IndexFormatError("the version that was to be read is gone each time", where=str(dataset.uri),
                           hint="open it again; another process may be compacting this index")


def versions(dataset: Any) -> dict[int, Path]:
    """The versions that there are, oldest first, and the manifest of each."""
    found = {_number(file.stem): file for file in Path(dataset.uri, "_versions").glob("*.manifest")
             if file.stem.isdigit()}
    return dict(sorted(found.items()))


def remove(manifest: Path) -> bool:
    """Remove a version, unless a reader uses it; whether it is gone. Its data files are orphans from then on."""
    with suppress(FileNotFoundError):
        descriptor = os.open(manifest, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            manifest.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True


def readers(manifest: Path) -> list[str]:
    """Who reads the version of this manifest, in words; empty when nobody does."""
    try:
        descriptor = os.open(manifest, os.O_RDWR)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return []
    except BlockingIOError:
        return _holders(os.fstat(descriptor).st_ino)
    finally:
        os.close(descriptor)


def _take(dataset: Any) -> Lease | None:
    """Raises ``FileNotFoundError`` when the version is gone."""
    folder = Path(dataset.uri, "_versions")
    if "://" in dataset.uri or not folder.is_dir():
        return None
    try:
        descriptor = _open_manifest(folder, int(dataset.version))
    except PermissionError:
        return None
    try:
        _lock_shared(descriptor)
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        raise FileNotFoundError(dataset.uri)
    return Lease(descriptor)


def _lock_shared(descriptor: int) -> None:
    """Waits for who removes the version at this moment."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _open_manifest(folder: Path, version: int) -> int:
    try:
        return os.open(folder / f"{_HIGHEST - version:020d}.manifest", os.O_RDONLY)
    except FileNotFoundError:
        return os.open(folder / f"{version}.manifest", os.O_RDONLY)  # Lance's older naming


def _number(stem: str) -> int:
    """The version of a manifest's name: Lance counts down from 2^64 - 1, in 20 digits, so that the newest is listed
    first."""
    return _HIGHEST - int(stem) if len(stem) == 20 else int(stem)


def _holders(inode: int) -> list[str]:
    """The processes that lock a file, where Linux's ``/proc/locks`` shows them; "a process" where nothing does."""
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        locks = ""
    found = re.findall(rf"FLOCK\s+ADVISORY\s+READ\s+(\d+)\s+\w+:\w+:{inode}\s", locks)
    return [_named(int(pid)) for pid in dict.fromkeys(found) if int(pid)] or ["a process"]


def _named(pid: int) -> str:
    if pid == os.getpid():
        return f"this process ({pid})"
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()})"
    except OSError:
        return f"process {pid}"
