"""Compaction: an index's passages in few files, and no byte more than it needs.

An index grows by a fragment with each commit, and keeps every version. A compaction has the store write small fragments
together and deleted passages out of them, in one commit that changes no passage and no order; the views are carried
over to that commit. Then it removes older versions, but for those that a tag names or that are being read, and all
files that no version names any more.

Everything happens under the index's lock, in an order in which a kill at any point leaves a whole index, and the same
call completes it.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...rag.errors import ConfigError, RegardError, StorageError
from ...rag.files import size_of
from ..stores import unfinished
from ..stores.locks import locked, storage_errors
from ..stores.opening import located
from ..stores.protocols import StoreKind
from ..views import NEW, build_view, carry_view, newest_versions
from .chosen import expect_models_chosen
from .sources import Sources

log = logging.getLogger(__name__)

KEEP = 1
"""Versions that stay by default. Tags and open readers keep theirs beside it, so more are needed only where readers
cannot be seen."""


@dataclass(slots=True)
class CompactionReport:
    """What a compaction did. ``bytes_before`` and ``bytes_after``: all files of the index.

    ``kept`` names older versions that stay, and why; ``views_removed`` the views that held what was to be purged and
    could not be built anew (their model is not there); ``regard index DIR --view NAME`` makes them again.
    """

    index: str
    bytes_before: int = 0
    bytes_after: int = 0
    fragments_before: int = 0
    fragments_after: int = 0
    versions_removed: int = 0
    kept: list[str] = field(default_factory=list)
    views_removed: list[str] = field(default_factory=list)
    purged: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compact(index: str | Path, *, keep: int = KEEP, purge: bool = False, wait: float = 0.0) -> CompactionReport:
    """Compact the index, and remove all versions but the newest ``keep``, those with a tag and those that are being
    read.

    ``purge``: afterwards no byte of a deleted document's text, title, id or metadata is in the folder, nor of what was
    made from them (vectors, words, keys and values, notes on sources and on unfinished jobs). Raises
    ``DeletionRefused``, naming them, where a tag or an open reader keeps an older version; readers get ``wait`` seconds
    to close. Outside its reach are stage caches, traces and other files that were written elsewhere, and copies below
    the files: backups, snapshots, unallocated blocks, an SSD's spare ones.

    Raises ``IndexNotFound``, ``StorageError`` (beside another job, or for what the disk refuses), ``ConfigError``.
    """
    if keep < 1 or (purge and keep > 1):
        when = " when all but the newest are to be purged" if purge else ""
        raise ConfigError(f"{keep} versions cannot be kept{when}", where="keep", hint="1 is the newest alone")
    kind, path = located(index)
    with closing(kind.open(path)) as store:  # raises before ``locked`` makes a folder
        expect_models_chosen(store)  # views may have to be built anew, some by a model that the index names
    with locked(path):
        return compact_locked(kind, path, keep=keep, purge=purge, wait=wait)


def compact_locked(
    kind: StoreKind, path: Path, *, keep: int = KEEP, purge: bool = False, wait: float = 0.0,
) -> CompactionReport:
    """``compact`` for who holds the index's lock."""
    report, start = CompactionReport(str(path), size_of(path), purged=purge), time.perf_counter()
    store = kind.upkeep(path)
    if purge:
        store.expect_removable(1, wait)
    with storage_errors(path, "the index cannot be compacted"):
        report.fragments_before = store.fragments
        store.compact(purge)
        report.fragments_after = store.fragments
    report.views_removed = _update_views(kind, path, purge)
    with storage_errors(path, "older versions cannot be removed"):
        report.versions_removed = store.remove_versions(keep)
        report.kept = store.kept(keep)
        if purge:
            store.expect_removable(1, 0)  # a reader may have come meanwhile
        store.sweep()
        _sweep_leftovers(path)
        _sweep_views(path, store.version, purge)
        if purge:
            _purge_notes(kind, path)
    report.bytes_after = size_of(path)
    report.seconds = time.perf_counter() - start
    return report


# -- what lies beside the passages --------------------------------------------------------


def _update_views(kind: StoreKind, path: Path, purge: bool) -> list[str]:
    """Carry each view over to the newest version, or build it anew; those that must go since that was not possible."""
    removed = []
    with closing(kind.open(path)) as store:
        for version in newest_versions(path):
            if carry_view(store, version):
                continue
            try:
                build_view(store, version.kind)
            except StorageError:
                raise  # a disk that is full now: the same call builds it when there is room
            except RegardError as error:  # its model is gone: the older version's view is of use to those who have it
                if not purge:
                    log.warning("the view %s is not up to date: %s", version.kind, str(error))
                    continue
                log.warning("the view %s is removed, since it may hold what is to be purged: %s",
                            version.kind, str(error))
                shutil.rmtree(version.folder.parent)
                removed.append(str(version.kind))
    return removed


def _sweep_leftovers(folder: Path) -> None:
    """What a writer that died had not put in its place yet."""
    for leftover in folder.glob("*.new"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _sweep_views(path: Path, newest: int, purge: bool) -> None:
    """Remove what dead builders left; to purge, also what is not of the ``newest`` version."""
    for home in (path / "views").glob("*/"):
        with locked(home, wait=True):
            _sweep_leftovers(home)
            for folder in home.glob("*/"):
                if folder.name.startswith(NEW) or (purge and folder.name != str(newest)):
                    shutil.rmtree(folder)
        if purge and not (home / str(newest)).exists():
            shutil.rmtree(home)


def _purge_notes(kind: StoreKind, path: Path) -> None:
    """What is noted of deleted documents, and of sources that none is left of. Where documents came from is last: a
    call that is run again looks there for what to delete."""
    with closing(kind.open(path)) as store:
        held = [document_id for document_id, _ in store.document_hashes()]
    with closing(Sources(path)) as places:
        unfinished.forget(path, places.emptied(held))
        places.forget_all_but(held)
