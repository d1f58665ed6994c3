"""Which version of an index a pipeline reads, and when there is another one.

While a job is writing, that is the version that the job began from: every commit in between has no views yet, and building them for each
would be as much work as the job's own. Otherwise it is the newest one.
"""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from ....rag.errors import IndexFormatError
from ....rag.files import local_path
from ...views.versions import versions_of
from ..unfinished import is_locked
from .store import DATASET, LanceStore

log = logging.getLogger(__name__)

Marks = tuple[int, ...]


class ServedStore(LanceStore):
    """An index at the version that is served now; it knows when another one would be."""

    def __init__(self, path: str | Path, version: int | None = None) -> None:
        self._marks = _marks(local_path(path, "index"))
        super().__init__(path, version)

    def superseded(self) -> bool:
        """Whether the index would be opened at another commit now; costs a few ``stat`` calls as long as nothing has changed."""
        marks = _marks(self.path)
        if marks == self._marks:
            return False
        with closing(open_store(str(self.path))) as served:
            if served.fingerprint != self.fingerprint:
                return True
        self._marks = marks
        return False


def open_store(path: str) -> ServedStore:
    """Entry point ``regard.stores: lance``."""
    newest = ServedStore(path)
    if not is_locked(newest.path):
        return newest
    version = _finished(newest)
    if version is None or version == newest.version:
        return newest
    try:
        served = ServedStore(path, version)
    except IndexFormatError:  # removed in the meantime
        return newest
    newest.close()
    log.info("a job is writing to %s: version %d is read, the newest that has its views, and not %d", path, version, newest.version)
    return served


def _finished(store: LanceStore) -> int | None:
    """The newest version in the store's history for which each of its views lies on disk; None where there is none."""
    homes = list((store.path / "views").glob("*/"))
    built = [{v.meta["version"] for v in versions_of(home, store) if store.descends_from(v.meta["version"], v.meta.get("commit", ""))}
             for home in homes]
    return max(set.intersection(*built), default=None) if built else None


def _marks(path: Path) -> Marks:
    """What changes with every commit, and with every view that is put in place."""
    folders = [path / DATASET / "_versions", path / "views", *sorted((path / "views").glob("*/"))]
    return tuple(_changed(folder) for folder in folders)


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
