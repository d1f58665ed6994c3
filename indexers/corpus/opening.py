"""Opening what others put in a folder: regular files only, none that lies elsewhere, and never a wait without an
end."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .limits import Limits
from .skips import Unreadable

_NOT_REGULAR = "not a regular file, or a broken link"


def open_file(path: Path) -> BinaryIO:
    """A regular file. Raises ``Unreadable`` for anything else (opening a pipe or a device could wait for ever),
    ``OSError``."""
    return _open(path, stat.S_ISREG, _NOT_REGULAR)


def open_source(path: Path, limits: Limits) -> BinaryIO:
    """A regular file, or a pipe, whose writer is waited for. Raises ``Unreadable`` for anything else, ``OSError``."""
    file = _open(path, lambda mode: stat.S_ISREG(mode) or stat.S_ISFIFO(mode), "neither a regular file nor a pipe")
    if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        ready = select.poll()
        ready.register(file, select.POLLIN | select.POLLHUP)
        if not ready.poll(min(1000 * limits.seconds, 2 ** 31 - 1)):
            file.close()
            raise limits.over("a pipe that nobody writes to", "seconds")
        os.set_blocking(file.fileno(), True)
    return file


def require_inside(path: Path, folder: Path, limits: Limits) -> None:
    """Raise ``Unreadable`` for a link that leads out of ``folder``, unless such links are to be followed."""
    if path.is_symlink() and not limits.outside_links:
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(os.path.realpath(folder)):
            raise Unreadable("a link that leads out of the folder (--limit outside_links=true or "
                             "Limits(outside_links=True) follows it)")


def require_regular(path: Path) -> None:
    """Raise ``Unreadable`` for what :func:`open_file` would not open."""
    if not path.is_file():
        raise Unreadable(_NOT_REGULAR)


def _open(path: Path, wanted: Callable[[int], bool], otherwise: str) -> BinaryIO:
    if not wanted(path.stat().st_mode):  # before it is opened, which alone can do something to a device
        raise Unreadable(otherwise)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not wanted(os.fstat(file.fileno()).st_mode):  # it was put there in between
        file.close()
        raise Unreadable(otherwise)
    return file
