"""Compaction: an index's passages in few files, and no byte more than it needs.

An index grows by a fragment with each commit, and keeps every version. A compaction writes small fragments together and deleted passages
out of them, in one commit that changes no passage and no order; the views are carried over to that commit. Then it removes older
versions, but for those that a tag names or that are being read (see ``leases``), and all files that no version names any more.

Everything happens under the index's lock, in an order in which a kill at any point leaves a whole index, and the same call completes it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...rag.errors import ConfigError, DeletionRefused, RegardError, StorageError
from ...rag.files import local_path
from ..stores import unfinished
from ..stores.lance import commits, leases
from ..stores.lance.digests import Ledger
from ..stores.lance.store import DATASET, KEY, LanceStore, commit_of, open_dataset, unchanged_since
from ..stores.lance.writer import locked, next_row, storage_errors
from ..views import NEW, build_view, carry_view, newest_versions
from .chosen import expect_models_chosen
from .sources import Sources

log = logging.getLogger(__name__)

KEEP = 1
"""Versions that stay by default. Tags and open readers keep theirs beside it, so more are needed only where readers cannot be seen."""

_PARTS = ("_versions", "_transactions", "_deletions", "data")
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class CompactionReport:
    """What a compaction did. ``bytes_before`` and ``bytes_after``: all files of the index.

    ``kept`` names older versions that stay, and why; ``views_removed`` the views that held what was to be purged and could not be built
    anew (their model is not there); ``regard index DIR --view NAME`` makes them again.
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
    """Compact the index, and remove all versions but the newest ``keep``, those with a tag and those that are being read.

    ``purge``: afterwards no byte of a deleted document's text, title, id or metadata is in the folder, nor of what was made from them
    (vectors, words, keys and values, notes on sources and on unfinished jobs). Raises ``DeletionRefused``, naming them, where a tag or an
    open reader keeps an older version; readers get ``wait`` seconds to close. Outside its reach are stage caches, traces and other files
    that were written elsewhere, and copies below the files: backups, snapshots, unallocated blocks, an SSD's spare ones.

    Raises ``IndexNotFound``, ``StorageError`` (beside another job, or for what the disk refuses), ``ConfigError``.
    """
    if keep < 1 or (purge and keep > 1):
        raise ConfigError(f"{keep} versions cannot be kept" + (" when all but the newest are to be purged" if purge else ""),
                          where="keep", hint="1 is the newest alone")
    path = local_path(index, "index")
    with closing(LanceStore(path)) as store:  # raises before ``locked`` makes a folder
        expect_models_chosen(store)  # views may have to be built anew, some by a model that the index names
    with locked(path):
        return compact_locked(path, keep=keep, purge=purge, wait=wait)


def compact_locked(path: Path, *, keep: int = KEEP, purge: bool = False, wait: float = 0.0) -> CompactionReport:
    """``compact`` for who holds the index's lock."""
    report, start = CompactionReport(str(path), _size(path), purged=purge), time.perf_counter()
    dataset = open_dataset(path)
    if purge:
        expect_removable(dataset, _older(dataset, 1), wait)
    with storage_errors(path, "the index cannot be compacted"):
        report.fragments_before = len(dataset.get_fragments())
        dataset = commits.compact(dataset)
        if purge:
            dataset = _with_silent_commit(dataset)
        _carry_pending(path, dataset)
        report.fragments_after = len(dataset.get_fragments())
    report.views_removed = _update_views(path, purge)
    with storage_errors(path, "older versions cannot be removed"):
        report.versions_removed = _remove_versions(dataset, keep)
        report.kept = _kept_by(dataset, _older(dataset, keep))
        if purge:
            expect_removable(dataset, _older(dataset, 1), 0)  # a reader may have come meanwhile
        _remove_orphans(path, dataset)
        _sweep_leftovers(path, path / DATASET, path / "pending")
        _sweep_views(path, dataset, purge)
        if purge:
            _purge_notes(path, dataset)
    report.bytes_after = _size(path)
    report.seconds = time.perf_counter() - start
    return report


def expect_removable(dataset: Any, manifests: Mapping[int, Path], wait: float) -> None:
    """Raise ``DeletionRefused`` when a tag names one of these versions, or somebody still reads one after ``wait`` seconds."""
    deadline = time.monotonic() + wait
    while reasons := _kept_by(dataset, manifests):
        if time.monotonic() >= deadline or _tags(dataset).keys() & manifests.keys():
            raise DeletionRefused(f"older versions of this index are in use, and hold what is to be purged: {'; '.join(reasons)}",
                                  where=str(dataset.uri), hint="close the readers and delete the tags, then run it again; or give "
                                                               "readers time to close: --wait SECONDS")
        time.sleep(_POLL_SECONDS)


# -- passages ---------------------------------------------------------------------------


def _with_silent_commit(dataset: Any) -> Any:
    """What the newest commit says of itself may name what it deleted: then another one is put after it."""
    import lance

    silent = (lance.LanceOperation.Rewrite, lance.LanceOperation.UpdateConfig)
    if isinstance(dataset.read_transaction(int(dataset.version)).operation, silent):
        return dataset
    return commits.configure(dataset, **{"regard.next_row": str(next_row(dataset))})


def _carry_pending(path: Path, dataset: Any) -> None:
    """Vectors on their way into the index stay those of its passages where these are the same; others are of no use to anybody."""
    import lance

    commit = commit_of(dataset, int(dataset.version))
    for home in (path / "pending").glob("*.lance"):
        try:
            pending = lance.dataset(str(home))
            mark = json.loads((pending.schema.metadata or {})[KEY])
            of_these = unchanged_since(dataset, mark["commit"])
        except (ValueError, OSError, KeyError, TypeError):
            of_these = False
        if not of_these:
            shutil.rmtree(home)
        elif mark["commit"] != commit:
            pending.update_schema_metadata({KEY.decode(): json.dumps({**mark, "commit": commit}, sort_keys=True)})


# -- versions ---------------------------------------------------------------------------


def _older(dataset: Any, keep: int) -> dict[int, Path]:
    """The versions before the newest ``keep``."""
    known = leases.versions(dataset)
    return dict(list(known.items())[:-keep])


def _remove_versions(dataset: Any, keep: int) -> int:
    """Remove what neither ``keep`` nor a tag nor a reader holds; how many."""
    tagged = _tags(dataset)
    return sum(leases.remove(manifest) for version, manifest in _older(dataset, keep).items() if version not in tagged)


def _kept_by(dataset: Any, manifests: Mapping[int, Path]) -> list[str]:
    """Who needs which of these versions, in words."""
    tags = _tags(dataset)
    named = [f"the tag {name!r} names version {version}" for version in manifests for name in tags.get(version, ())]
    return named + [f"{reader} reads version {version}" for version, file in manifests.items() for reader in leases.readers(file)]


def _tags(dataset: Any) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, tag in dataset.tags.list().items():
        found.setdefault(int(tag["version"]), []).append(name)
    return found


def _remove_orphans(path: Path, dataset: Any) -> None:
    """Files that no version names: of versions that are gone, and of writers that died. No writer is alive: we hold the lock."""
    dataset.cleanup_old_versions(retain_versions=max(1, len(leases.versions(dataset))), delete_unverified=True,
                                 error_if_tagged_old_versions=False)
    folder = path / DATASET
    for file in (file for part in _PARTS for file in (folder / part).glob("*")):
        if file.name.startswith(".tmp") or "#" in file.name:  # how Lance and its object store call what they have not finished
            file.unlink()
    Ledger(folder).keep(file for file in folder.rglob("*") if file.is_file())


# -- what lies beside them ----------------------------------------------------------------


def _update_views(path: Path, purge: bool) -> list[str]:
    """Carry each view over to the newest version, or build it anew; those that must go since that was not possible."""
    removed = []
    with closing(LanceStore(path)) as store:
        for version in newest_versions(path):
            if carry_view(store, version):
                continue
            try:
                build_view(store, version.kind)
            except StorageError:
                raise  # a disk that is full now: the same call builds it when there is room
            except RegardError as error:  # its model is gone: the view of an older version is of use to those who have it
                if not purge:
                    log.warning("the view %s is not up to date: %s", version.kind, str(error))
                    continue
                log.warning("the view %s is removed, since it may hold what is to be purged: %s", version.kind, str(error))
                shutil.rmtree(version.folder.parent)
                removed.append(str(version.kind))
    return removed


def _sweep_leftovers(*folders: Path) -> None:
    """What a writer that died had not put in its place yet."""
    for leftover in (entry for folder in folders for entry in folder.glob("*.new")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _sweep_views(path: Path, dataset: Any, purge: bool) -> None:
    """Remove what dead builders left; to purge, also what is not of the newest version."""
    for home in (path / "views").glob("*/"):
        with locked(home, wait=True):
            _sweep_leftovers(home)
            for folder in home.glob("*/"):
                if folder.name.startswith(NEW) or (purge and folder.name != str(dataset.version)):
                    shutil.rmtree(folder)
        if purge and not (home / str(dataset.version)).exists():
            shutil.rmtree(home)


def _purge_notes(path: Path, dataset: Any) -> None:
    """What is noted of deleted documents, and of sources that none is left of. Where documents came from is last: a call that is run
    again looks there for what to delete."""
    held = [name for batch in dataset.scanner(columns=["document_id"]).to_batches()
            for name in dict.fromkeys(batch.column("document_id").to_pylist())]
    with closing(Sources(path)) as places:
        unfinished.forget(path, places.emptied(held))
        places.forget_all_but(held)


def _size(path: Path) -> int:
    """The bytes of all files under ``path``, each once however many links it has."""
    found: dict[tuple[int, int], int] = {}
    for file in path.rglob("*"):
        try:
            state = file.lstat()
        except FileNotFoundError:
            continue
        if not file.is_dir():
            found[state.st_dev, state.st_ino] = state.st_size
    return sum(found.values())
