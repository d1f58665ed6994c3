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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rag.documents import Passage, Rows
from ..rag.encoding import Vectors
from ..rag.errors import IndexFormatError, IndexNotFound
from ..rag.identity import same_key
from .filters import compile_filters, expect_known

DATASET = "passages.lance"
FORMAT = 1
KEY = b"regard"
_PASSAGE_COLUMNS = ["row", "id", "document_id", "text", "start", "end", "title", "metadata"]
_FILTERS_KEPT = 32

Contents = NDArray[np.int64]
"""[n, 2]: the two halves of each passage's content hash."""


def open_store(path: str) -> LanceStore:
    """Entry point ``regard.stores: lance``."""
    return LanceStore(path)


class LanceStore:
    """The passages of the index at ``path``, as they were when it was opened (or at ``version``)."""

    def __init__(self, path: str | Path, version: int | None = None) -> None:
        """Raises ``IndexNotFound`` where there is no index, ``IndexFormatError`` where something else lies there."""
        self.path = Path(path)
        self._dataset = open_dataset(self.path, version)
        self.manifest = read_manifest(self._dataset, self.path)
        self._rows: Rows | None = None
        self._commit: str | None = None
        self._filtered: dict[str, Rows] = {}

    # -- identity ----------------------------------------------------------------------

    @property
    def uri(self) -> str:
        return f"lance:{self.path}"

    @property
    def version(self) -> int:
        return int(self._dataset.version)

    @property
    def commit(self) -> str:
        """The random identity of the transaction that made this version, never given out twice; a copied folder keeps it."""
        if self._commit is None:
            self._commit = commit_of(self._dataset, self.version)
        return self._commit

    @property
    def fingerprint(self) -> str:
        return f"{self.manifest['id']}:{self.version}:{self.commit}"

    def descends_from(self, version: int, commit: str) -> bool:
        """Whether ``commit`` is what made ``version`` in this very history; False too where that version was cleaned up."""
        return version <= self.version and commit_of(self._dataset, version, missing="") == commit != ""

    @property
    def has_text(self) -> bool:
        return bool(self.manifest["text"])

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Fingerprint of each dense encoder, by its name in this index."""
        return {field.name.removeprefix("vector_"): json.loads(field.metadata[KEY]) for field in self._dataset.schema
                if field.name.startswith("vector_")}

    def __len__(self) -> int:
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
            self._rows = np.asarray(self._dataset.to_table(columns=["row"])["row"].to_numpy(), dtype=np.int64)
            self._order = np.argsort(self._rows, kind="stable")
        return self._rows

    def offsets(self, rows: Sequence[int] | Rows) -> NDArray[np.int64]:
        """Positions of ``rows`` in the dataset. Raises ``IndexFormatError`` for a row that is not there."""
        wanted = np.asarray(rows, dtype=np.int64)
        known = self.rows
        slots = np.minimum(np.searchsorted(known, wanted, sorter=self._order), max(len(known) - 1, 0))
        found = self._order[slots] if len(known) else np.zeros(0, dtype=np.int64)
        if len(found) != len(wanted) or not np.array_equal(known[found], wanted):
            raise IndexFormatError("a ranking names passages that this index no longer holds", where=str(self.path),
                                   hint="search again: the index was changed")
        return found

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """The passages of ``rows``, in that order."""
        if not len(rows):
            return []
        offsets, back = np.unique(self.offsets(rows), return_inverse=True)
        table = self._dataset.take(offsets.tolist(), columns=_PASSAGE_COLUMNS)
        made = [_passage(record) for record in table.to_pylist()]
        return [made[i] for i in back]

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The document of each of ``rows``, without fetching text."""
        if not len(rows):
            return []
        offsets, back = np.unique(self.offsets(rows), return_inverse=True)
        column = self._dataset.take(offsets.tolist(), columns=["document_id"])["document_id"].to_pylist()
        return [column[i] for i in back]

    def contents(self, rows: Sequence[int] | Rows | None = None) -> Contents:
        """What each of ``rows`` (None: of all, in the dataset's order) reads to an encoder, as the 16 bytes of ``writer.content_hash``:
        int64 [n, 2]. Two rows of two histories with the same number are the same passage only where these agree."""
        if rows is None:
            blocks = [_words(batch.column("content_hash")) for batch in self.scan(["content_hash"])]
            return np.concatenate(blocks) if blocks else np.zeros((0, 2), np.int64)
        if not len(rows):
            return np.zeros((0, 2), np.int64)
        offsets, back = np.unique(self.offsets(rows), return_inverse=True)
        return _words(self._dataset.take(offsets.tolist(), columns=["content_hash"])["content_hash"].combine_chunks())[back]

    def texts(self, batch_size: int = 4096) -> Iterator[list[str]]:
        """What encoders and BM25 read of every passage, in the dataset's order."""
        for batch in self.scan(["title", "text"], batch_size):
            yield full_texts(batch)

    def vectors(self, encoder: str, batch_size: int = 8192, start: int = 0) -> Iterator[Vectors]:
        """float32 [n, d] of every passage from position ``start`` on, in the dataset's order."""
        name = f"vector_{encoder}"
        for batch in self.scan([name], batch_size, start):
            column = batch.column(name)
            yield np.asarray(column.flatten()).reshape(len(column), column.type.list_size)

    def scan(self, columns: list[str], batch_size: int = 4096, start: int = 0) -> Iterator[Any]:
        """Arrow record batches in the dataset's order; a few batches are in memory at a time."""
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
            for record in batch.to_pylist():
                fields = {**json.loads(record["metadata"]), "id": record["id"], "document_id": record["document_id"],
                          "title": record["title"]}
                known.update(fields)
                if accept(fields):
                    rows.append(record["row"])
        if known:  # an index without passages has no fields to name
            expect_known(filters, known, str(self.path))
        return np.asarray(rows, dtype=np.int64)


def open_dataset(path: Path, version: int | None = None, session: Any = None) -> Any:
    """The Lance dataset of the index at ``path``; ``session`` holds its caches."""
    import lance

    folder = path / DATASET
    if "://" not in str(path) and not folder.exists():
        raise IndexNotFound(f"there is no index at {path}", where=str(folder), hint=f"make one: regard index SOURCE --index {path}")
    try:
        return lance.dataset(str(folder), version=version, session=session)
    except (ValueError, OSError) as error:
        raise IndexFormatError(f"the passage store cannot be opened: {str(error).split(', /')[0]}", where=str(folder),
                               hint="the folder is damaged or was written by something else; index again into a new folder") from None


def commit_of(dataset: Any, version: int, *, missing: str | None = None) -> str:
    """The identity of the commit that made ``version``; ``missing`` for a version that is not there any more.

    Raises ``IndexFormatError`` for a manifest that cannot be read where ``missing`` is None.
    """
    try:
        return str(dataset.read_transaction(version).uuid)
    except (ValueError, OSError, RuntimeError) as error:
        if missing is not None:
            return missing
        raise IndexFormatError(f"the commit of version {version} cannot be read: {str(error).split(', /')[0]}", where=str(dataset.uri),
                               hint="the folder is damaged; index again into a new folder") from None


def read_manifest(dataset: Any, path: Path) -> dict[str, Any]:
    """The index's own description, from the schema's metadata."""
    raw = (dataset.schema.metadata or {}).get(KEY)
    manifest: dict[str, Any] = json.loads(raw) if raw else {}
    if manifest.get("format") != FORMAT:
        raise IndexFormatError(f"this is a Lance dataset, but no Regard index of format {FORMAT} (it says {manifest.get('format')!r})",
                               where=str(path), hint="index again into a new folder")
    return manifest


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
