"""The passage store, read side: a Lance dataset at one version, the single source of truth of an index.

Version numbers are given out again after a restore or a lost manifest, in a history that is another one. What is derived from a store
(views, cached outputs, pending vectors) therefore names its *commit*: the random identity that Lance gives each transaction and keeps in
that version's own manifest.

One table row a passage: ``row`` (int64, given once and never to another passage), ids, character span, text, title, metadata
(JSON), the hash of what encoders read, the hash of its document, and one ``vector_<encoder>`` column for each dense encoder.
The manifest (chunker, format) lies in the schema's metadata and each encoder's fingerprint in its column's metadata, so they are
committed with the data and cannot disagree with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....rag.errors import ConfigError, IndexFormatError, IndexNotFound, RegardError
from ....rag.files import local_path
from ....rag.models.encoding import Vectors
from ....rag.nouns import Passage, Rows
from ....rag.parts.identity import same_key
from ..filters import compile_filters, expect_known
from .leases import leased

DATASET = "passages.lance"
FORMAT = 1
KEY = b"regard"
_PASSAGE_COLUMNS = ["row", "id", "document_id", "text", "start", "end", "title", "metadata", "content_hash"]
_FILTERS_KEPT = 32
_MANIFEST = {"id": str, "chunker": dict, "text": bool}

Contents = NDArray[np.int64]
"""[n, 2]: the two halves of each passage's content hash."""


class LanceStore:
    """The passages of the index at ``path``, as they were when it was opened (or at ``version``).

    As long as it is open, no compaction removes its version (see ``leases``).
    """

    def __init__(self, path: str | Path, version: int | None = None) -> None:
        """Raises ``IndexNotFound`` where there is no index, ``IndexFormatError`` where something else lies there."""
        self.path = local_path(path, "index")
        self._dataset, self._lease = leased(lambda: open_dataset(self.path, version))
        self.manifest = read_manifest(self._dataset, self.path)
        # read once: Lance lends a dataset's history to one thread at a time, and this object is shared by many
        self.version = int(self._dataset.version)
        self.commit = commit_of(self._dataset, self.version)
        """The random identity of the transaction that made this version, never given out twice; a copied folder keeps it."""
        self._rows: Rows | None = None
        self._filtered: dict[str, Rows] = {}

    def close(self) -> None:
        """Let go of the version: from now on a compaction may remove it. What is forgotten closes by itself."""
        if self._lease is not None:
            self._lease.close()

    # -- identity ----------------------------------------------------------------------

    @property
    def uri(self) -> str:
        return f"lance:{self.path}"

    @property
    def fingerprint(self) -> str:
        return f"{self.manifest['id']}:{self.version}:{self.commit}"

    def descends_from(self, version: int, commit: str) -> bool:
        """Whether ``commit`` is what made ``version`` in this very history; False too where that version was cleaned up."""
        return version <= self.version and commit_of(open_dataset(self.path, self.version), version, missing="") == commit != ""

    def unchanged_since(self, commit: str) -> bool:
        """Whether ``commit`` holds these very passages in this very order: what came after it only moved them to other files, or changed
        settings. False too where the versions in between were removed."""
        return unchanged_since(open_dataset(self.path, self.version), commit)

    @property
    def has_text(self) -> bool:
        return bool(self.manifest["text"])

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Fingerprint of each dense encoder, by its name in this index."""
        with reading(self.path):
            return {field.name.removeprefix("vector_"): json.loads(field.metadata[KEY]) for field in self._dataset.schema
                    if field.name.startswith("vector_")}

    def __len__(self) -> int:
        with reading(self.path):
            return int(self._dataset.count_rows())

    def documents(self) -> int:
        """How many documents have passages here."""
        found: set[str] = set()
        for batch in self.scan(["document_id"]):
            found.update(batch.column("document_id").to_pylist())
        return len(found)

    # -- rows --------------------------------------------------------------------------

    @property
    def rows(self) -> Rows:
        """Every row number, int64, in the dataset's order."""
        if self._rows is None:
            with reading(self.path):
                self._rows = np.asarray(self._dataset.to_table(columns=["row"])["row"].to_numpy(), dtype=np.int64)
            self._order = np.argsort(self._rows, kind="stable")
        return self._rows

    def offsets(self, rows: Sequence[int] | Rows) -> NDArray[np.int64]:
        """Positions of ``rows`` in the dataset.

        Raises ``IndexFormatError`` for a row that is not there, ``ConfigError`` for what is none.
        """
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (len(wanted) and not np.issubdtype(wanted.dtype, np.integer)):
            raise ConfigError(f"{rows!r:.80} are no rows", where=str(self.path), hint="give a list of whole numbers, a ranking's rows")
        if not len(wanted):
            return np.zeros(0, dtype=np.int64)
        known = self.rows
        slots = np.minimum(np.searchsorted(known, wanted, sorter=self._order), max(len(known) - 1, 0))
        found = self._order[slots] if len(known) else np.zeros(0, dtype=np.int64)
        if len(found) != len(wanted) or not np.array_equal(known[found], wanted):
            raise IndexFormatError("a ranking names passages that this index no longer holds", where=str(self.path),
                                   hint="search again: the index was changed")
        return found

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """The passages of ``rows``, in that order, their texts compared with the hashes that were stored with them.

        Raises ``IndexFormatError`` where they differ, or nothing can be read.
        """
        columns, back = self._take(rows, _PASSAGE_COLUMNS)
        with reading(self.path):
            records = columns.to_pylist()
            made = [_passage(record) for record in records]
        if self.has_text:
            for record, passage in zip(records, made, strict=True):
                self._expect_unchanged(record, passage)
        return [made[i] for i in back]

    def _take(self, rows: Sequence[int] | Rows, columns: list[str]) -> tuple[Any, NDArray[np.int64]]:
        """Each of ``rows`` once, as a table of these columns, and the place of each of ``rows`` in it."""
        offsets, back = np.unique(self.offsets(rows), return_inverse=True)
        with reading(self.path):
            return self._dataset.take(offsets.tolist(), columns=columns), back

    def _expect_unchanged(self, record: Mapping[str, Any], passage: Passage) -> None:
        if content_hash(passage) != record["content_hash"]:
            raise IndexFormatError(f"the text of passage {passage.id!r} is not what was indexed: the index is damaged",
                                   where=str(self.path), hint=mend(self.path))

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The document of each of ``rows``, without fetching text."""
        columns, back = self._take(rows, ["document_id"])
        with reading(self.path):
            ids = columns["document_id"].to_pylist()
        return [ids[i] for i in back]

    def contents(self, rows: Sequence[int] | Rows | None = None) -> Contents:
        """What each of ``rows`` (None: of all, in the dataset's order) reads to an encoder, as the 16 bytes of ``writer.content_hash``:
        int64 [n, 2]. Two rows of two histories with the same number are the same passage only where these agree."""
        if rows is None:
            blocks = [_words(batch.column("content_hash")) for batch in self.scan(["content_hash"])]
            return np.concatenate(blocks) if blocks else np.zeros((0, 2), np.int64)
        columns, back = self._take(rows, ["content_hash"])
        return _words(columns["content_hash"].combine_chunks())[back]

    def texts(self, batch_size: int = 4096) -> Iterator[list[str]]:
        """What encoders and BM25 read of every passage, in the dataset's order."""
        for batch in self.scan(["title", "text"], batch_size):
            with reading(self.path):
                texts = full_texts(batch)
            yield texts

    def vectors(self, encoder: str, batch_size: int = 8192, start: int = 0) -> Iterator[Vectors]:
        """float32 [n, d] of every passage from position ``start`` on, in the dataset's order."""
        name = f"vector_{encoder}"
        if encoder not in self.encoders:
            raise IndexNotFound(f"the index has no vectors of {encoder!r}", where=str(self.path), hint=f"it has {', '.join(self.encoders)}")
        for batch in self.scan([name], batch_size, start):
            column = batch.column(name)
            yield np.asarray(column.flatten()).reshape(len(column), column.type.list_size)

    def scan(self, columns: list[str], batch_size: int = 4096, start: int = 0) -> Iterator[Any]:
        """Arrow record batches in the dataset's order; a few batches are in memory at a time."""
        with reading(self.path):
            scanner = self._dataset.scanner(columns=columns, batch_size=batch_size, scan_in_order=True, offset=start or None,
                                            batch_readahead=2, fragment_readahead=1)
            yield from scanner.to_batches()

    def select(self, filters: Mapping[str, Any]) -> Rows:
        """The rows whose passage meets ``filters`` (see ``filters``), int64 in the dataset's order; kept for the next call.

        Raises ``QueryError`` for a field that no passage has, and for an operator that there is not.
        """
        key = same_key(filters)
        if key not in self._filtered:
            if len(self._filtered) >= _FILTERS_KEPT:
                self._filtered.pop(next(iter(self._filtered)))
            self._filtered[key] = self._matching(filters)
        return self._filtered[key]

    def _matching(self, filters: Mapping[str, Any]) -> Rows:
        accept = compile_filters(filters)
        rows: list[int] = []
        known: set[str] = set()
        for batch in self.scan(["row", "id", "document_id", "title", "metadata"]):
            with reading(self.path):
                fields_of = [{**json.loads(record["metadata"]), "id": record["id"], "document_id": record["document_id"],
                              "title": record["title"], "row": record["row"]} for record in batch.to_pylist()]
            for fields in fields_of:
                row = fields.pop("row")
                known.update(fields)
                if accept(fields):
                    rows.append(row)
        if known:  # an index without passages has no fields to name
            expect_known(filters, known, str(self.path))
        return np.asarray(rows, dtype=np.int64)


def exists(path: Path) -> bool:
    """Whether there is an index at ``path``. A creation that was killed left none; in older releases it left folders for versions,
    without one."""
    folder = path / DATASET
    if not folder.is_dir() or any((folder / "_versions").glob("*.manifest")):
        return folder.exists()
    return any(part.name not in ("_versions", "_transactions") for part in folder.iterdir())


def open_dataset(path: Path, version: int | None = None, session: Any = None) -> Any:
    """The Lance dataset of the index at ``path``; ``session`` holds its caches."""
    import lance

    folder = path / DATASET
    if not exists(path):
        raise IndexNotFound(f"there is no index at {path}", where=str(folder), hint=f"make one: regard index SOURCE --index {path}")
    with reading(path):
        return lance.dataset(str(folder), version=version, session=session)


def commit_of(dataset: Any, version: int, *, missing: str | None = None) -> str:
    """The identity of the commit that made ``version``; ``missing`` for a version that is not there any more.

    Raises ``IndexFormatError`` for a manifest that cannot be read where ``missing`` is None.
    """
    try:
        with reading(Path(dataset.uri).parent):
            return str(dataset.read_transaction(version).uuid)
    except IndexFormatError:
        if missing is not None:
            return missing
        raise


def unchanged_since(dataset: Any, commit: str) -> bool:
    """See ``LanceStore.unchanged_since``. Lance's own history says what each commit did."""
    import lance

    # ReserveFragments, the first half of a compaction, has no class of its own
    harmless = (lance.LanceOperation.Rewrite, lance.LanceOperation.UpdateConfig)
    version, followed_by = int(dataset.version), None
    while version > 0:
        try:
            made_by = dataset.read_transaction(version)
        except (ValueError, OSError, RuntimeError):
            return False
        if made_by.uuid == commit:
            return True
        kind = type(made_by.operation)
        reserved = kind is lance.LanceOperation.BaseOperation and followed_by is lance.LanceOperation.Rewrite
        if kind not in harmless and not reserved:
            return False
        version, followed_by = version - 1, kind
    return False


def read_manifest(dataset: Any, path: Path) -> dict[str, Any]:
    """The index's own description, from the schema's metadata."""
    with reading(path):
        raw = (dataset.schema.metadata or {}).get(KEY)
        manifest = json.loads(raw) if raw else {}
    said = manifest.get("format") if isinstance(manifest, dict) else None
    if said != FORMAT:
        raise IndexFormatError(f"this is a Lance dataset, but no Regard index of format {FORMAT} (it says {said!r:.80})",
                               where=str(path), hint="index again into a new folder")
    wrong = [name for name, kind in _MANIFEST.items() if not isinstance(manifest.get(name), kind)]
    if wrong or not isinstance(manifest["chunker"].get("spec"), str):
        raise IndexFormatError(f"the index's description is damaged: {', '.join(wrong) or 'chunker'}", where=str(path),
                               hint="index again into a new folder")
    found: dict[str, Any] = manifest
    return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Lance, Arrow and the JSON in their columns say of a damaged index into an ``IndexFormatError``; Lance's Rust panics
    too, which are no ``Exception``."""
    try:
        yield
    except (RegardError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise IndexFormatError(f"the passage store cannot be read: {_said(error)}", where=str(path / DATASET), hint=mend(path)) from None


def mend(path: Path) -> str:
    """What to do about a damaged index at ``path``."""
    return f"regard verify {path} says what is damaged, and with --repair mends what can be mended"


def _said(error: BaseException) -> str:
    """The first of it, without the place in Lance's source."""
    return str(error).split(", /")[0].partition("\n")[0][:300] or type(error).__name__


def content_hash(passage: Passage) -> bytes:
    """16 bytes of what an encoder reads: passages with the same hash have the same vector."""
    return blake2b(passage.full_text.encode(), digest_size=16).digest()


def full_texts(batch: Any) -> list[str]:
    """``Passage.full_text`` of a batch with the columns title and text, without making passages."""
    titles, texts = batch.column("title").to_pylist(), batch.column("text").to_pylist()
    return [f"{title}\n{text}" if title else text for title, text in zip(titles, texts, strict=True)]


def _words(column: Any) -> Contents:
    """A column of 16 bytes each as int64 [n, 2]."""
    start = column.offset * 2
    return np.frombuffer(column.buffers()[1], dtype=np.int64)[start:start + 2 * len(column)].reshape(-1, 2)


def _passage(record: Mapping[str, Any]) -> Passage:
    return Passage(record["id"], record["document_id"], record["text"], record["start"], record["end"], record["title"],
                   json.loads(record["metadata"]))
