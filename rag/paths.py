"""Paths that users name: what is none, or cannot be written to, is a typed error, and where it can be before the work."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .errors import ConfigError, StorageError

_HINT = "name a file in a folder that exists and may be written to"


_ADDRESS = re.compile("([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(path: Any, where: str) -> Path:
    """``path`` as a ``Path`` of this machine. Raises ``ConfigError`` for what is no path, an address (``s3://...``), and a path that
    nobody can look at (a name too long, a folder that may not be entered)."""
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str):
        raise ConfigError(f"{path!r:.80} is no path", where=where, hint="give a text or a pathlib.Path")
    address = _ADDRESS.match(name)
    if address:
        raise ConfigError(f"{address[1]}: is not a folder of this machine; object stores are not supported", where=f"{where}: {name:.200}",
                          hint="copy it to a local disk, or mount it, and give that path")
    try:
        Path(name).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever opens it says so, or makes it
    except (OSError, ValueError) as error:
        raise ConfigError(f"the path cannot be used: {getattr(error, 'strerror', None) or error}", where=f"{where}: {name:.200}",
                          hint="check the path and the permissions of its folders") from None
    return Path(name)


def expect_writable(path: str | Path) -> None:
    """Raise ``StorageError`` where no file can be written at ``path``: its folder is missing or may not be written to, or a folder is
    there. Long work asks first."""
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
    return StorageError(f"the file cannot be written: {getattr(error, 'strerror', None) or error}", where=str(target), hint=_HINT)
