"""Which version of an index a pipeline reads, and when there is another one (see ``stores.serving``)."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from ....rag.errors import IndexFormatError
from ....rag.files import local_path
from ..locks import is_locked
from ..serving import Marks, finished, marks, view_marks
from .store import DATASET, LanceStore

log = logging.getLogger(__name__)


class ServedStore(LanceStore):
    """An index at the version that is served now; it knows when another one would be."""

    def __init__(self, path: str | Path, version: int | None = None) -> None:
        self._marks = _marks(local_path(path, "index"))
        super().__init__(path, version)

    def superseded(self) -> bool:
        """Whether the index would be opened at another commit now; costs a few ``stat`` calls as long as nothing has
        changed."""
        now = _marks(self.path)
        if now == self._marks:
            return False
        with closing(serve(self.path)) as served:
            if served.fingerprint != self.fingerprint:
                return True
        self._marks = now
        return False


def serve(path: str | Path) -> ServedStore:
    """The newest version; while a job is writing, the newest that has its views."""
    newest = ServedStore(path)
    if not is_locked(newest.path):
        return newest
    version = finished(newest)
    if version is None or version == newest.version:
        return newest
    try:
        served = ServedStore(path, version)
    except IndexFormatError:  # removed in the meantime
        return newest
    newest.close()
    log.info("a job is writing to %s: version %d is read, the newest that has its views, and not %d",
             path, version, newest.version)
    return served


def _marks(path: Path) -> Marks:
    """What changes with every commit, and with every view that is put in place."""
    return marks(path / DATASET / "_versions") + view_marks(path)
