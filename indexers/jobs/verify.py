"""``regard verify``: every byte of an index against the digests that its commits noted; and, if asked, mending what is
damaged.

The store checks and mends itself (``stores.protocols.Check``). Views can always be built anew. What the store has lost
is taken out of it, in whole documents, and named: indexing the same sources again brings it back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...rag.dag.scope import Scope
from ...rag.errors import IndexFormatError, IndexNotFound, RegardError
from ...rag.models.chosen import expect_chosen
from ...rag.models.encoding import Vectors
from ...rag.progress import progress_bar
from ..encoders.stored import stored_encoder
from ..stores.findings import Finding, repair_command
from ..stores.integrity import damages
from ..stores.locks import locked, storage_errors
from ..stores.opening import located
from ..stores.protocols import Check, Store, StoreKind
from ..stores.serving import DESCRIPTION
from ..stores.unfinished import jobs
from ..views import Version, build_view
from ..views.versions import newest_versions, read_meta
from .chosen import LANGUAGE_MODEL
from .columns import checked_vectors
from .sources import FILE as SOURCES


@dataclass(slots=True)
class Report:
    """``problems``: what is damaged. ``notes``: what is not, but is worth knowing. ``repaired``: what was done.
    ``lost``: the ids of documents that were taken out, and have to be indexed again."""

    index: str
    version: int | None = None
    passages: int | None = None
    files: int = 0
    bytes: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def verify_index(index: str | Path, *, repair: bool = False, progress: bool | None = None) -> Report:
    """Read the newest version of the index in the folder ``index``, and its views, whole.

    With ``repair`` mend what is damaged, and say in the report what is left after that. Raises ``IndexNotFound`` where
    there is no index, and for a repair ``StorageError``.
    """
    (kind, path), start = located(index), time.perf_counter()
    if not kind.exists(path):
        raise IndexNotFound(f"there is no index at {path}", where=str(path),
                            hint=f"make one: regard index SOURCE --index {path}")
    found = _Verification(kind, path, progress)
    report = found.run()
    if repair and not report.ok:
        repaired, lost = _Repair(kind, path, found).run()
        found = _Verification(kind, path, progress)
        report = found.run()
        report.repaired, report.lost = repaired, lost
    report.seconds = time.perf_counter() - start
    return report


class _Verification:
    """``check``: the store's; ``views``: those that are damaged."""

    def __init__(self, kind: StoreKind, path: Path, progress: bool | None) -> None:
        self.path = path
        self.progress = progress
        self.report = Report(str(path))
        self.check: Check = kind.check(path)
        self.views: list[Version] = []

    def run(self) -> Report:
        store = self.check.run(self.progress)
        self.report.problems += self.check.problems
        self.report.notes += self.check.notes
        self.report.files, self.report.bytes = self.check.files, self.check.bytes
        if store is None:
            self._sources()
            return self.report
        self.report.version, self.report.passages = store.version, len(store)
        for version in newest_versions(self.path):
            self._view(version, store)
        self._sources()
        for job in jobs(self.path):
            self.report.notes.append(Finding("unfinished.json", "the last indexing job has not ended",
                                             f"rerun it: {job.command}"))
        return self.report

    def _problem(self, file: str, what: str) -> None:
        self.report.problems.append(Finding(file, what, repair_command(self.path)))

    def _view(self, version: Version, store: Store) -> None:
        place = version.folder.relative_to(self.path).as_posix()
        if version.damaged:
            self.views.append(version)
            self._problem(f"{place}/{DESCRIPTION}", "is damaged")
            return
        files = version.meta["files"]
        with progress_bar(f"verifying {version.kind}", sum(file["bytes"] for file in files.values()), "bytes",
                          enabled=self.progress) as advance:
            found = list(damages(version.folder, files, "always"))
            for file in files.values():
                self.report.files += 1
                self.report.bytes += file["bytes"]
                advance(file["bytes"], f"{self.report.files} files")
        for name, why in found:
            self._problem(f"{place}/{name}", why)
        if not found:
            try:
                version.rows()
            except IndexFormatError as error:
                found = [("", error.what)]
                self._problem(place, error.what)
        if found:
            self.views.append(version)
        elif read_meta(version.folder, store) is None or version.meta["commit"] != store.commit:
            self.report.notes.append(Finding(place, f"the view {version.kind} is of an older version; it is brought up "
                                                    "to date when it is opened, or by regard index"))

    def _sources(self) -> None:
        file = self.path / SOURCES
        if not file.exists():
            return
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                said = [row[0] for row in database.execute("PRAGMA quick_check")]
        except sqlite3.Error as error:
            said = [str(error)]
        if said != ["ok"]:
            self._problem(SOURCES, f"is damaged: {said[0]}")


class _Repair:
    def __init__(self, kind: StoreKind, path: Path, found: _Verification) -> None:
        self.kind = kind
        self.path = path
        self.found = found
        self.done: list[str] = []
        self.lost: list[str] = []

    def run(self) -> tuple[list[str], list[str]]:
        with locked(self.path), storage_errors(self.path, "the index cannot be repaired"):
            undone = self.found.check.go_back()
            if undone:
                self.done += undone
                self.found = _Verification(self.kind, self.path, self.found.progress)
                self.found.run()
            done, self.lost = self.found.check.repair(_encode)
            self.done += done
            if any(problem.file == SOURCES for problem in self.found.report.problems):
                for name in (SOURCES, f"{SOURCES}-wal", f"{SOURCES}-shm"):
                    (self.path / name).unlink(missing_ok=True)
                self.done.append(f"{SOURCES} is removed; the next job makes it anew")
            self._build_views()
        return self.done, self.lost

    def _build_views(self) -> None:
        try:
            store = self.kind.open(self.path)
        except IndexFormatError:
            return
        for version in newest_versions(self.path):
            if any(version.folder == damaged.folder for damaged in self.found.views) or self.lost:
                try:
                    if version.kind.model:  # which the index names
                        expect_chosen(version.kind.model, LANGUAGE_MODEL, self.path)
                    build_view(store, version.kind, progress=self.found.progress)
                    self.done.append(f"the view {version.kind} is built anew")
                except RegardError as error:
                    self.done.append(f"the view {version.kind} could not be built anew: {error}")


def _encode(fingerprint: Mapping[str, Any], texts: Sequence[str]) -> Vectors:
    """The texts' vectors by the encoder that an index names."""
    with Scope() as scope:
        return checked_vectors(scope.open(stored_encoder(fingerprint)), texts)
