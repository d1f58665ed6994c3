"""Whether the files of a view are those that its description names.

Sizes are compared at every opening, which costs a look at each file's entry. A file's whole content is compared the first time that it is
opened on this machine, since what FAISS, and numba for BM25, are given they do not check: a damaged file would crash the process or give
wrong results. Which files were found good is remembered by path, inode, size and time of change, in this process and in
``models.cache_dir()``; ``regard verify`` reads all of them again. With the environment variable ``REGARD_CHECK_VIEWS=0`` an opening
compares sizes only (of ``rows.npy`` the content too): for storage that checks itself, and views that are too large to be read once.

A digest tells damage and not malice: who can write to an index can write its digests too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..rag.errors import IndexFormatError
from ..rag.files import replacing
from ..rag.models import cache_dir
from .stores.lance.digests import Digest

Files = Mapping[str, Mapping[str, Any]]
"""``{"bytes": ..., "sha256": ...}`` of each file, by its POSIX path in the folder that is described."""

Reading = Literal["once", "always", "never"]
SWITCH = "REGARD_CHECK_VIEWS"
_SEAL = "digest"
_Mark = list[Any]
_remembered: dict[str, _Mark] = {}


def sealed(description: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``description``, which is for a file called ``name``, with a digest of itself."""
    return {**description, _SEAL: _seal(description, name)}


def read_sealed(file: Path) -> dict[str, Any] | None:
    """What :func:`sealed` made, out of a JSON file; None where there is no such file, or it is not as it was written."""
    data = read_json(file)
    return data if data is not None and data.get(_SEAL) == _seal(data, file.name) else None


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none."""
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def describe_files(folder: Path, known: Files) -> dict[str, dict[str, Any]]:
    """The files in ``folder``; ``known`` are those that need not be read, their digests having been taken when they were written."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name: dict(known[name]) if name in known else digest_of(folder / name) for name in names}


def digest_of(file: Path) -> dict[str, Any]:
    found = Digest.of(file)
    return {"bytes": found.bytes, "sha256": found.sha256}


def expect_whole(folder: Path, files: Files, hint: str, *names: str, reading: Reading = "once") -> None:
    """Raise ``IndexFormatError`` unless the files of ``folder`` (or only those of these ``names``) are as described."""
    chosen = {name: files.get(name, {}) for name in names} if names else files
    for name, why in damages(folder, chosen, reading):
        raise IndexFormatError(f"{name} {why}", where=str(folder), hint=hint)


def damages(folder: Path, files: Files, reading: Reading = "once") -> Iterator[tuple[str, str]]:
    """Each file that is not as described, and how: after one look at all sizes, content is read where there is need."""
    if reading == "once" and os.environ.get(SWITCH) == "0":
        reading = "never"
    left = {}
    for name, file in files.items():
        why = _unlike(folder, name, file)
        if why:
            yield name, why
        else:
            left[name] = str(file["sha256"])
    if reading == "never":
        return
    memory = _Memory(folder)
    for name, digest in left.items():
        try:
            if reading == "once" and memory.holds(name, digest):
                continue
            good = Digest.of(folder / name).sha256 == digest
            memory.note(name, digest if good else None)
        except OSError as error:  # it may have been removed just now
            yield name, f"cannot be read: {error.strerror}"
            continue
        if not good:
            yield name, "is damaged: its content is not what was written"
    memory.save()


def remember(folder: Path, files: Files) -> None:
    """The files were just written, and their digests taken from them."""
    memory = _Memory(folder)
    for name, file in files.items():
        memory.note(name, str(file["sha256"]))
    memory.save()


def look_once(folder: Path, name: str, what: str, look: Callable[[], object]) -> None:
    """Call ``look``, which raises unless the file's content is good in some further way, ``what``; not for a file that it found good on
    this machine before."""
    memory = _Memory(folder)
    mark = f"{name}#{what}"
    if not memory.holds(mark, what):
        look()
        memory.note(mark, what)
        memory.save()


def _unlike(folder: Path, name: str, file: Mapping[str, Any]) -> str:
    """What a look at the file's entry tells; empty: nothing."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not isinstance(file, Mapping) or not isinstance(file.get("sha256"), str):
        return "is not described"
    try:
        found = (folder / name).stat()
    except (OSError, ValueError):
        return "is missing"
    if found.st_size != file.get("bytes") or not (folder / name).is_file():
        return f"is damaged: it has {found.st_size} bytes instead of {file.get('bytes')}"
    return ""


def _seal(description: Mapping[str, Any], name: str) -> str:
    rest = {key: value for key, value in description.items() if key != _SEAL}
    return hashlib.sha256(json.dumps([name, rest], sort_keys=True).encode()).hexdigest()


class _Memory:
    """Which files of a view's folder were found good on this machine; one small file for all the versions of a view."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.realpath(folder))
        home = hashlib.blake2b(str(self._folder.parent).encode(), digest_size=16).hexdigest()
        self._file = cache_dir() / "verified" / f"{home}.json"
        self._kept: dict[str, Any] | None = None
        self._changed: dict[str, _Mark | None] = {}

    def holds(self, name: str, digest: str) -> bool:
        mark = self._mark(name, digest)
        key = str(self._folder / name)
        if _remembered.get(key) != mark and self._stored().get(f"{self._folder.name}/{name}") == mark:
            _remembered[key] = mark
        return _remembered.get(key) == mark

    def note(self, name: str, digest: str | None) -> None:
        """``digest`` None: it is not good."""
        mark = None if digest is None else self._mark(name, digest)
        if mark is not None and mark == _remembered.get(str(self._folder / name)):
            return
        self._changed[name] = mark
        if mark is None:
            _remembered.pop(str(self._folder / name), None)
        else:
            _remembered[str(self._folder / name)] = mark

    def save(self) -> None:
        """A cache that cannot be written costs reading again, never an opening."""
        if not self._changed:
            return
        kept = {key: mark for key, mark in self._stored().items() if (self._folder.parent / key.partition("#")[0]).exists()}
        kept |= {f"{self._folder.name}/{name}": mark for name, mark in self._changed.items()}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as file:
                file.write(json.dumps({key: mark for key, mark in kept.items() if mark}).encode())
        except OSError:
            return

    def _stored(self) -> dict[str, Any]:
        if self._kept is None:
            self._kept = read_json(self._file) or {}
        return self._kept

    def _mark(self, name: str, digest: str) -> _Mark:
        found = (self._folder / name.partition("#")[0]).stat()
        return [found.st_ino, found.st_size, found.st_mtime_ns, digest]
