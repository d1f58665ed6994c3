"""Files that a user asked for: found unwritable before the work, and written or refused with a typed error."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import StorageError

_HINT = "name a file in a folder that exists and may be written to"


def expect_writable(path: str | Path) -> None:
    """Raise ``StorageError`` where no file can be written at ``path``: its folder is missing or may not be written to, or a folder is
    there. Long work asks first."""
    target = Path(path)
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
    target = Path(path)
    try:
        target.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _refused(target, error) from error


def _refused(target: Path, error: Exception) -> StorageError:
    return StorageError(f"the file cannot be written: {getattr(error, 'strerror', None) or error}", where=str(target), hint=_HINT)
