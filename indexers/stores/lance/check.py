"""Every byte of the passage store against the digests that its commits noted; and mending it.

What has no digest (an index of an older release, or one whose ledger is damaged) is no damage; its passages are
compared with the hashes of their content instead, and its vectors looked at for NaN. What is lost is taken out, in
whole documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ....rag.errors import IndexFormatError, RegardError
from ....rag.nouns import Passage
from ....rag.progress import Advance, progress_bar
from ..changes import content_hash
from ..findings import Finding, again, repair_command
from ..integrity import Digest
from ..protocols import EncodeTexts
from . import commits
from .digests import LEDGER, Ledger
from .store import DATASET, LanceStore, full_texts, reading
from .writer import StoreWriter, vector_array

_THREADS = 2


class LanceCheck:
    """A ``Check`` of the index at ``path``.

    ``fragments``: those of the dataset that are damaged, by the ``damaged`` of their files; ``undescribed``: whether
    the version's own files are; ``later``: descriptions of versions after this one that are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = self.bytes = 0
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []
        self.fragments: set[int] = set()
        self.damaged: set[str] = set()
        self.undescribed = False
        self.later: list[str] = []

    # -- looking -------------------------------------------------------------------------

    def run(self, progress: bool | None) -> LanceStore | None:
        try:
            store = LanceStore(self.path)
            len(store)
        except IndexFormatError as error:
            self.undescribed = True
            self._problem(f"{DATASET}/_versions", error.what)
            return None
        self._look(store, progress)
        return store

    def _problem(self, file: str, what: str, mend: str = "") -> None:
        self.problems.append(Finding(file, what, mend or repair_command(self.path)))

    def _look(self, store: LanceStore, progress: bool | None) -> None:
        folder, dataset = self.path / DATASET, store._dataset
        noted = Ledger(folder).digests()
        files = {name: number for fragment in dataset.get_fragments() for name, number in _files_of(fragment)}
        described = _described(folder, store.version, store.commit)
        covered = {name: noted[name] for name in (*files, *described)
                   if name in noted and noted[name].commit == ("" if name in files else store.commit)}
        self.later = [name for name in noted if _version_of(name) > store.version and not (folder / name).exists()]
        for name in self.later:
            self._problem(f"{DATASET}/{name}",
                          "is missing: it was the description of a later version than the newest one that is here")
        for name, why in self._damaged(folder, covered, progress):
            if name in files:
                self.fragments.add(files[name])
                self.damaged.add(name)
            else:
                self.undescribed = True
            self._problem(f"{DATASET}/{name}", why)
        uncovered = [name for name in (*files, *described) if name not in covered]
        for name in uncovered:
            if name in files and not (folder / name).is_file():
                self.fragments.add(files[name])
                self._problem(f"{DATASET}/{name}", "is missing")
        if uncovered:
            self.notes.append(Finding(f"{DATASET}/{LEDGER}",
                                      f"{len(uncovered)} files are not covered by digests; the passages' "
                                      "content hashes and vectors were checked instead"))
            self._contents(dataset)
        if not self.fragments:
            self._unique(store)

    def _damaged(self, folder: Path, files: dict[str, Digest], progress: bool | None) -> Iterator[tuple[str, str]]:
        """The files that are not what the ledger says, and how; read by some threads."""
        with (
            progress_bar("verifying", sum(file.bytes for file in files.values()), "bytes", enabled=progress) as advance,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            found = pool.map(lambda item: _unlike(folder / item[0], item[1]), files.items())
            for (name, file), why in zip(files.items(), found, strict=True):
                self._count(file.bytes, advance)
                if why:
                    yield name, why

    def _count(self, size: int, advance: Advance) -> None:
        self.files += 1
        self.bytes += size
        advance(size, f"{self.files} files")

    def _contents(self, dataset: Any) -> None:
        """Compare every passage with the hash of its content, fragment by fragment, and look for vectors that are not
        finite."""
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
                self._problem(f"{DATASET}/{next(_files_of(fragment))[0]}", why)

    def _unique(self, store: LanceStore) -> None:
        try:
            rows = store.rows
            ids = [id for batch in store.scan(["id"]) for id in batch.column("id").to_pylist()]
        except IndexFormatError as error:
            self._problem(DATASET, error.what, f"index into a new folder: regard index SOURCE --index {self.path}")
            return
        for name, count in (("row numbers", len(np.unique(rows))), ("passage ids", len(set(ids)))):
            if count != len(rows):
                self._problem(DATASET, f"{len(rows) - count} {name} are there more than once",
                              "index into a new folder")

    # -- mending -------------------------------------------------------------------------

    def go_back(self) -> list[str]:
        """Put a damaged newest version's manifest aside, so that the version before it is the newest."""
        folder = self.path / DATASET
        files = sorted((folder / "_versions").glob("*.manifest"), reverse=True,
                       key=lambda file: _version_of(f"_versions/{file.name}"))
        if not self.undescribed or len(files) < 2:
            return []
        files[0].rename(files[0].with_suffix(".damaged"))
        Ledger(folder).forget([f"_versions/{files[0].name}"])
        return [f"the last commit is undone, its description being damaged; {again(self.path)}"]

    def repair(self, encode: EncodeTexts) -> tuple[list[str], list[str]]:
        done, lost = [], list[str]()
        if self.later:
            Ledger(self.path / DATASET).forget(self.later)
            done.append(f"{len(self.later)} commits are lost with their descriptions; {again(self.path)}")
        if self.fragments:
            done += self._encode_again(encode)
        if self.fragments:
            lost = self._drop_fragments()
            done.append(f"{len(self.fragments)} damaged parts of the passage store are taken out, with "
                        f"{len(lost) or 'unknown'} documents; {again(self.path)}")
        return done, lost

    def _encode_again(self, encode: EncodeTexts) -> Iterator[str]:
        """Compute anew what damaged files held, where that was vectors only (of an encoder that was added later), and
        texts are whole."""
        store = LanceStore(self.path)
        for fragment in store._dataset.get_fragments():
            damaged = [file for file in fragment.metadata.files if f"data/{file.path}" in self.damaged]
            names = _vectors_only(store._dataset, damaged)
            if fragment.fragment_id not in self.fragments or not (damaged and names and store.has_text):
                continue
            try:
                table = _with_vectors(store, fragment, names, encode)
            except RegardError as error:
                yield f"passages cannot be encoded again: {error.what}"
                continue
            writer = StoreWriter(self.path)
            writer.dataset = commits.replace(writer.dataset, table, "id")
            self.fragments.discard(fragment.fragment_id)
            yield f"{len(table)} passages are encoded again: {', '.join(sorted(names))}"

    def _drop_fragments(self) -> list[str]:
        """Take the damaged fragments out in one commit, and what else there is of their documents in another: the ids
        of these."""
        import lance

        writer = StoreWriter(self.path)
        dataset, lost = writer.dataset, set[str]()
        last = int(dataset.config().get("regard.next_row", 0))
        for fragment in dataset.get_fragments():
            wanted = fragment.fragment_id in self.fragments
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
        writer.dataset = commits.commit(dataset, lance.LanceOperation.Delete([], sorted(self.fragments), "damaged"))
        if lost:
            writer.delete(sorted(lost))
        return sorted(lost)


def _with_vectors(store: LanceStore, fragment: Any, names: set[str], encode: EncodeTexts) -> Any:
    """The fragment's passages, with vectors of these columns computed anew."""
    schema = store._dataset.schema
    with reading(store.path):
        table = fragment.to_table(columns=[column.name for column in schema if column.name not in names])
    for name in names:
        vectors = encode(store.encoders[name.removeprefix("vector_")], full_texts(table))
        table = table.append_column(schema.field(name), vector_array(vectors, schema.field(name).type))
    return table.select(schema.names).cast(schema)


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
