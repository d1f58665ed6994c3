"""``regard verify``: every byte of an index against the digests that its commits noted; and, if asked, mending what is damaged.

What has no digest (an index of an older release, or one whose ledger is damaged) is no damage; its passages are compared with the hashes
of their content instead, and its vectors looked at for NaN. Views can always be built anew. What the passage store has lost is taken out
of it, in whole documents, and named: indexing the same sources again brings it back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...rag.dag.scope import Scope
from ...rag.errors import IndexFormatError, IndexNotFound, RegardError
from ...rag.models.chosen import expect_chosen
from ...rag.nouns import Passage
from ...rag.progress import Advance, progress_bar
from ..encoders.stored import stored_encoder
from ..integrity import damages
from ..stores.lance import commits
from ..stores.lance.digests import LEDGER, Digest, Ledger
from ..stores.lance.store import DATASET, LanceStore, content_hash, exists, full_texts, reading
from ..stores.lance.writer import StoreWriter, locked, storage_errors, vector_array
from ..stores.unfinished import jobs
from ..views import Version, build_view
from ..views.versions import DESCRIPTION, newest_versions, read_meta
from .chosen import LANGUAGE_MODEL
from .columns import checked_vectors
from .sources import FILE as SOURCES

_THREADS = 2
_AGAIN = "index the same sources again: regard index SOURCE --index {path}"
_REPAIR = "regard verify {path} --repair"


@dataclass(frozen=True, slots=True)
class Finding:
    """``file``: its path in the index. ``what`` is wrong, or to be known; ``mend``: what to do."""

    file: str
    what: str
    mend: str = ""


@dataclass(slots=True)
class Report:
    """``problems``: what is damaged. ``notes``: what is not, but is worth knowing. ``repaired``: what was done. ``lost``: the ids of
    documents that were taken out, and have to be indexed again."""

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

    With ``repair`` mend what is damaged, and say in the report what is left after that. Raises ``IndexNotFound`` where there is no index,
    and for a repair ``StorageError``.
    """
    path, start = Path(index), time.perf_counter()
    if not exists(path):
        raise IndexNotFound(f"there is no index at {path}", where=str(path), hint=f"make one: regard index SOURCE --index {path}")
    found = _Verification(path, progress)
    report = found.run()
    if repair and not report.ok:
        repaired, lost = _Repair(path, found).run()
        found = _Verification(path, progress)
        report = found.run()
        report.repaired, report.lost = repaired, lost
    report.seconds = time.perf_counter() - start
    return report


class _Verification:
    """``fragments``: those of the passage store that are damaged, by the ``damaged`` of their files; ``undescribed``: whether the
    version's own files are; ``later``: descriptions of versions after this one that are missing; ``views``: those that are damaged."""

    def __init__(self, path: Path, progress: bool | None) -> None:
        self.path = path
        self.progress = progress
        self.report = Report(str(path))
        self.fragments: set[int] = set()
        self.damaged: set[str] = set()
        self.undescribed = False
        self.later: list[str] = []
        self.views: list[Version] = []

    def run(self) -> Report:
        try:
            store = LanceStore(self.path)
            commit = store.commit
            self.report.version, self.report.passages = store.version, len(store)
        except IndexFormatError as error:
            self.undescribed = True
            self._problem(f"{DATASET}/_versions", error.what, _REPAIR)
            self._sources()
            return self.report
        self._store(store, commit)
        for version in newest_versions(self.path):
            self._view(version, store)
        self._sources()
        for job in jobs(self.path):
            self.report.notes.append(Finding("unfinished.json", "the last indexing job has not ended", f"rerun it: {job.command}"))
        return self.report

    def _problem(self, file: str, what: str, hint: str) -> None:
        self.report.problems.append(Finding(file, what, hint.format(path=self.path)))

    # -- the passage store -------------------------------------------------------------

    def _store(self, store: LanceStore, commit: str) -> None:
        folder, dataset = self.path / DATASET, store._dataset
        noted = Ledger(folder).digests()
        files = {name: number for fragment in dataset.get_fragments() for name, number in _files_of(fragment)}
        described = _described(folder, store.version, commit)
        covered = {name: noted[name] for name in (*files, *described)
                   if name in noted and noted[name].commit == ("" if name in files else commit)}
        self.later = [name for name in noted if _version_of(name) > store.version and not (folder / name).exists()]
        for name in self.later:
            self._problem(f"{DATASET}/{name}", "is missing: it was the description of a later version than the newest one that is here",
                          _REPAIR)
        for name, why in self._damaged(folder, covered):
            if name in files:
                self.fragments.add(files[name])
                self.damaged.add(name)
            else:
                self.undescribed = True
            self._problem(f"{DATASET}/{name}", why, _REPAIR)
        uncovered = [name for name in (*files, *described) if name not in covered]
        for name in uncovered:
            if name in files and not (folder / name).is_file():
                self.fragments.add(files[name])
                self._problem(f"{DATASET}/{name}", "is missing", _REPAIR)
        if uncovered:
            self.report.notes.append(Finding(f"{DATASET}/{LEDGER}", f"{len(uncovered)} files are not covered by digests; the passages' "
                                             "content hashes and vectors were checked instead"))
            self._contents(dataset)
        if not self.fragments:
            self._unique(store)

    def _damaged(self, folder: Path, files: dict[str, Digest]) -> Iterator[tuple[str, str]]:
        """The files that are not what the ledger says, and how; read by some threads."""
        with (
            progress_bar("verifying", sum(file.bytes for file in files.values()), "bytes", enabled=self.progress) as advance,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            found = pool.map(lambda item: _unlike(folder / item[0], item[1]), files.items())
            for (name, file), why in zip(files.items(), found, strict=True):
                self._count(file.bytes, advance)
                if why:
                    yield name, why

    def _count(self, size: int, advance: Advance) -> None:
        self.report.files += 1
        self.report.bytes += size
        advance(size, f"{self.report.files} files")

    def _contents(self, dataset: Any) -> None:
        """Compare every passage with the hash of its content, fragment by fragment, and look for vectors that are not finite."""
        for fragment in dataset.get_fragments():
            number = fragment.fragment_id
            if number in self.fragments:
                continue
            try:
                why = _content_problem(fragment, dataset, self.path)
            except IndexFormatError as error:
                why = error.what
            if why:
                self.fragments.add(number)
                self._problem(f"{DATASET}/{next(_files_of(fragment))[0]}", why, _REPAIR)

    def _unique(self, store: LanceStore) -> None:
        try:
            rows = store.rows
            ids = [id for batch in store.scan(["id"]) for id in batch.column("id").to_pylist()]
        except IndexFormatError as error:
            self._problem(DATASET, error.what, _AGAIN.replace("index the same sources again", "index into a new folder"))
            return
        for name, count in (("row numbers", len(np.unique(rows))), ("passage ids", len(set(ids)))):
            if count != len(rows):
                self._problem(DATASET, f"{len(rows) - count} {name} are there more than once", "index into a new folder")

    # -- views -------------------------------------------------------------------------

    def _view(self, version: Version, store: LanceStore) -> None:
        place = version.folder.relative_to(self.path).as_posix()
        if version.damaged:
            self.views.append(version)
            self._problem(f"{place}/{DESCRIPTION}", "is damaged", _REPAIR)
            return
        files = version.meta["files"]
        with progress_bar(f"verifying {version.kind}", sum(file["bytes"] for file in files.values()), "bytes",
                          enabled=self.progress) as advance:
            found = list(damages(version.folder, files, "always"))
            for file in files.values():
                self._count(file["bytes"], advance)
        for name, why in found:
            self._problem(f"{place}/{name}", why, _REPAIR)
        if not found:
            try:
                version.rows()
            except IndexFormatError as error:
                found = [("", error.what)]
                self._problem(place, error.what, _REPAIR)
        if found:
            self.views.append(version)
        elif read_meta(version.folder, store) is None or version.meta["commit"] != store.commit:
            self.report.notes.append(Finding(place, f"the view {version.kind} is of an older version; it is brought up to date when it is "
                                             "opened, or by regard index"))

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
            self._problem(SOURCES, f"is damaged: {said[0]}", _REPAIR)


class _Repair:
    def __init__(self, path: Path, found: _Verification) -> None:
        self.path = path
        self.found = found
        self.done: list[str] = []
        self.lost: list[str] = []

    def run(self) -> tuple[list[str], list[str]]:
        with locked(self.path), storage_errors(self.path, "the index cannot be repaired"):
            if self.found.undescribed and self._go_back():
                self.found = _Verification(self.path, self.found.progress)
                self.found.run()
            if self.found.later:
                Ledger(self.path / DATASET).forget(self.found.later)
                self.done.append(f"{len(self.found.later)} commits are lost with their descriptions; {_AGAIN.format(path=self.path)}")
            if self.found.fragments:
                self._encode_again()
            if self.found.fragments:
                self._drop_fragments()
            if any(problem.file == SOURCES for problem in self.found.report.problems):
                for name in (SOURCES, f"{SOURCES}-wal", f"{SOURCES}-shm"):
                    (self.path / name).unlink(missing_ok=True)
                self.done.append(f"{SOURCES} is removed; the next job makes it anew")
            self._build_views()
        return self.done, self.lost

    def _go_back(self) -> bool:
        """Put a damaged newest version's manifest aside, so that the version before it is the newest."""
        folder = self.path / DATASET
        files = sorted((folder / "_versions").glob("*.manifest"), key=lambda file: _version_of(f"_versions/{file.name}"), reverse=True)
        if len(files) < 2:
            return False
        files[0].rename(files[0].with_suffix(".damaged"))
        Ledger(folder).forget([f"_versions/{files[0].name}"])
        self.done.append(f"the last commit is undone, its description being damaged; {_AGAIN.format(path=self.path)}")
        return True

    def _encode_again(self) -> None:
        """Compute anew what damaged files held, where that was vectors only (of an encoder that was added later), and texts are whole."""
        store = LanceStore(self.path)
        for fragment in store._dataset.get_fragments():
            damaged = [file for file in fragment.metadata.files if f"data/{file.path}" in self.found.damaged]
            names = _vectors_only(store._dataset, damaged)
            if fragment.fragment_id not in self.found.fragments or not (damaged and names and store.has_text):
                continue
            try:
                table = self._with_vectors(store, fragment, names)
            except RegardError as error:
                self.done.append(f"passages cannot be encoded again: {error.what}")
                continue
            writer = StoreWriter(self.path, chunker=store.manifest["chunker"])
            writer.dataset = commits.replace(writer.dataset, table, "id")
            self.found.fragments.discard(fragment.fragment_id)
            self.done.append(f"{len(table)} passages are encoded again: {', '.join(sorted(names))}")

    def _with_vectors(self, store: LanceStore, fragment: Any, names: set[str]) -> Any:
        """The fragment's passages, with vectors of these columns computed anew."""
        schema = store._dataset.schema
        with reading(self.path):
            table = fragment.to_table(columns=[column.name for column in schema if column.name not in names])
        for name in names:
            with Scope() as scope:
                one = scope.open(stored_encoder(store.encoders[name.removeprefix("vector_")]))
                vectors = checked_vectors(one, full_texts(table))
            table = table.append_column(schema.field(name), vector_array(vectors, schema.field(name).type))
        return table.select(schema.names).cast(schema)

    def _drop_fragments(self) -> None:
        """Take the damaged fragments out in one commit, and what else there is of their documents in another."""
        import lance

        store = LanceStore(self.path)
        writer = StoreWriter(self.path, chunker=store.manifest["chunker"])
        dataset, numbers = writer.dataset, sorted(self.found.fragments)
        lost: set[str] = set()
        last = int(dataset.config().get("regard.next_row", 0))
        for fragment in dataset.get_fragments():
            wanted = fragment.fragment_id in self.found.fragments
            try:
                with reading(self.path):
                    table = fragment.to_table(columns=["row", "document_id"])
                    names = set(table["document_id"].to_pylist())
                if not wanted:
                    last = max(last, int(table["row"].to_numpy().max(initial=-1)) + 1)
            except IndexFormatError:
                names = set()
            last += fragment.physical_rows if wanted else 0
            lost |= names if wanted else set()
        dataset = commits.configure(dataset, **{"regard.next_row": str(last)})
        writer.dataset = commits.commit(dataset, lance.LanceOperation.Delete([], numbers, "damaged"))
        if lost:
            writer.delete(sorted(lost))
        self.lost = sorted(lost)
        self.done.append(f"{len(numbers)} damaged parts of the passage store are taken out, with {len(lost) or 'unknown'} documents; "
                         f"{_AGAIN.format(path=self.path)}")

    def _build_views(self) -> None:
        try:
            store = LanceStore(self.path)
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


def _unlike(file: Path, noted: Digest) -> str:
    """How ``file`` differs from what was noted; empty: not at all."""
    try:
        size = file.stat().st_size
        if size != noted.bytes:
            return f"is damaged: it has {size} bytes instead of {noted.bytes}"
        return "" if Digest.of(file).sha256 == noted.sha256 else "is damaged: its content is not what was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _files_of(fragment: Any) -> Iterator[tuple[str, int]]:
    """The files of a fragment by their paths in the dataset, with its number."""
    described = fragment.metadata
    for file in described.files:
        yield f"data/{file.path}", described.id
    if described.deletion_file:
        yield described.deletion_file.path(described.id), described.id


def _vectors_only(dataset: Any, files: Sequence[Any]) -> set[str]:
    """The vector columns that the files hold; none where they hold anything else."""
    names = {column.id(): column.name() for column in dataset.lance_schema.fields()}
    held = {names.get(number, "") for file in files for number in file.fields}
    return held if all(name.startswith("vector_") for name in held) else set()


def _described(folder: Path, version: int, commit: str) -> list[str]:
    """The files that describe the version: its manifest, and its transaction."""
    files = [commits.manifest_file(folder, version), *(folder / "_transactions").glob(f"*-{commit}.txn")]
    return [file.relative_to(folder).as_posix() for file in files if file.exists()]


def _version_of(name: str) -> int:
    """The version that a file of the dataset describes; 0: none."""
    folder, _, file = name.partition("/")
    stem, _, kind = file.partition(".")
    if folder != "_versions" or kind != "manifest" or not (stem.isdecimal() and stem.isascii()):
        return 0
    number = int(stem)
    return 2 ** 64 - 1 - number if number > 2 ** 63 else number


def _content_problem(fragment: Any, dataset: Any, path: Path) -> str:
    """What is wrong with the fragment's passages or vectors; empty: nothing."""
    vectors = [column.name for column in dataset.schema if column.name.startswith("vector_")]
    with reading(path):
        for batch in fragment.to_batches(columns=["id", "title", "text", "content_hash", *vectors]):
            for record in batch.select(["id", "title", "text", "content_hash"]).to_pylist():
                if record["text"] and content_hash(_texts(record)) != record["content_hash"]:
                    return f"the text of passage {record['id']!r} is not what was indexed"
            for name in vectors:
                if not np.isfinite(batch.column(name).flatten().to_numpy()).all():
                    return f"{name} has NaN or infinity"
    return ""


def _texts(record: dict[str, Any]) -> Passage:
    return Passage(record["id"], "", record["text"], 0, len(record["text"]), record["title"])
