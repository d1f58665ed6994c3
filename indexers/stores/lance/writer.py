"""The passage store, write side: every commit is one Lance transaction that holds passages and their vectors
together."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....rag.errors import DimensionMismatch, FingerprintMismatch, IndexNotFound
from ....rag.models.encoding import Vectors
from ..changes import Changes, content_hash
from ..locks import storage_errors
from . import commits
from .pending import LancePending, discard_pending
from .store import (
    DATASET,
    FORMAT,
    KEY,
    encoders_of,
    exists,
    full_texts,
    hashes_in,
    open_dataset,
    read_manifest,
)

_BLOCK = 2048


class StoreWriter:
    """The only writer of an index. Make it inside ``locks.locked``."""

    atomic = True

    def __init__(
        self, path: Path, *, chunker: Mapping[str, Any] | None = None, text: bool = True,
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Open the index at ``path``, or create it with the columns of ``encoders`` (fingerprints by name).

        ``chunker`` is ``{"spec": ..., "fingerprint": {...}}``, None for the index's own; ``text`` and ``encoders`` are
        for a new index only. Raises ``FingerprintMismatch`` when the index was made with another chunker,
        ``IndexNotFound`` where there is none to open and no chunker to make one with.
        """
        self.path = path
        if exists(path):
            self.dataset = open_dataset(path, session=commits.without_cache())
            self.manifest = read_manifest(self.dataset, path)
            if chunker is not None:
                self._same_chunker(chunker)
        else:
            if chunker is None:
                raise IndexNotFound(f"there is no index at {path}", where=str(path),
                                    hint=f"make one: regard index SOURCE --index {path}")
            self.manifest = {"format": FORMAT, "id": uuid.uuid4().hex, "chunker": dict(chunker), "text": text}
            self.dataset = self._create(encoders or {})

    def _create(self, encoders: Mapping[str, Mapping[str, Any]]) -> Any:
        with storage_errors(self.path, "the index cannot be created"):
            return commits.create(self.path / DATASET, _schema(self.manifest, encoders))

    def _same_chunker(self, chunker: Mapping[str, Any]) -> None:
        """Only what decides the passages counts, not how the user spelled it."""
        if chunker["fingerprint"] != self.manifest["chunker"]["fingerprint"]:
            raise FingerprintMismatch(
                f"this index was made with the chunker {self.manifest['chunker']}, not {dict(chunker)}",
                where=str(self.path),
                hint="use the index's chunker, or index into a new folder")

    def add_encoder(self, name: str, fingerprint: Mapping[str, Any], vectors: Iterator[Vectors] | None = None) -> None:
        """Add an encoder's column in one transaction. ``vectors`` gives those of the passages already there, in
        order."""
        field = _vector_field(name, fingerprint)
        with storage_errors(self.path, f"the vectors of {name!r} cannot be added"):
            self.dataset = commits.add_column(self.dataset, field,
                                              (vector_array(block, field.type) for block in vectors or ()))

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def next_row(self) -> int:
        """The first row number that was never given out."""
        return next_row(self.dataset)

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Fingerprint of each dense encoder, by its name."""
        return encoders_of(self.dataset)

    def document_hashes(self) -> Iterator[tuple[str, bytes]]:
        """The id and the hash of each document, at least once."""
        for batch in self.dataset.scanner(columns=["document_id", "document_hash"]).to_batches():
            yield from hashes_in(batch)

    def texts(self, batch_size: int = _BLOCK, start: int = 0) -> Iterator[list[str]]:
        """What encoders read of every passage from position ``start`` on, in the dataset's order."""
        scanner = self.dataset.scanner(columns=["title", "text"], batch_size=batch_size, offset=start or None,
                                       scan_in_order=True)
        for batch in scanner.to_batches():
            yield full_texts(batch)

    def pending(self, name: str, fingerprint: Mapping[str, Any]) -> LancePending:
        """The vectors that an earlier job computed for this column and these passages."""
        return LancePending(self.path, name, self.dataset, fingerprint)

    def discard_pending(self) -> None:
        discard_pending(self.path)

    def commit(self, changes: Changes, first_row: int) -> None:
        """Write ``changes`` whole or not at all; their passages get the rows from ``first_row`` on."""
        table = self._table(changes, first_row)
        with storage_errors(self.path, "the disk refused a commit; everything committed before is safe"):
            if changes.replaced:
                self.dataset = commits.replace(self.dataset, table, "id", _among(changes.replaced))
            else:
                self.dataset = commits.append(self.dataset, table)

    def delete(self, document_ids: Sequence[str]) -> int:
        """Remove documents; how many passages went. Their row numbers are not used again."""
        before = len(self)
        with storage_errors(self.path, "the documents cannot be deleted"):
            if self.dataset.count_rows(_among(document_ids)):
                self.dataset = commits.configure(self.dataset, **{"regard.next_row": str(self.next_row())})
                self.dataset = commits.delete(self.dataset, _among(document_ids))
        return before - len(self)

    def stored_vectors(self, document_ids: Sequence[str], encoder: str) -> dict[bytes, Any]:
        """Vectors of these documents' passages by content hash, so that an edited document re-encodes only what
        changed."""
        column = f"vector_{encoder}"
        table = self.dataset.to_table(columns=["content_hash", column], filter=_among(document_ids))
        vectors = table[column].combine_chunks()
        block = np.asarray(vectors.flatten()).reshape(len(vectors), vectors.type.list_size)
        return dict(zip(table["content_hash"].to_pylist(), block, strict=True))

    def _table(self, changes: Changes, first_row: int) -> Any:
        import pyarrow as pa

        schema, passages, keep = self.dataset.schema, changes.passages, self.manifest["text"]
        columns: dict[str, Any] = {
            "row": np.arange(first_row, first_row + len(passages), dtype=np.int64),
            "id": [p.id for p in passages], "document_id": [p.document_id for p in passages],
            "text": [p.text if keep else "" for p in passages],
            "start": [p.start for p in passages], "end": [p.end for p in passages],
            "title": [p.title for p in passages],
            "metadata": [json.dumps(p.metadata, sort_keys=True, default=str) for p in passages],
            "content_hash": [content_hash(p) for p in passages], "document_hash": changes.hashes,
        }
        for column in schema:
            if column.name.startswith("vector_"):
                columns[column.name] = vector_array(changes.vectors[column.name.removeprefix("vector_")], column.type)
        return pa.table({column.name: columns[column.name] for column in schema}, schema=schema)


def next_row(dataset: Any) -> int:
    """The first row number that an index's dataset never gave out; no compaction forgets it."""
    kept = int(dataset.config().get("regard.next_row", 0))
    for batch in dataset.scanner(columns=["row"]).to_batches():
        if len(batch):
            kept = max(kept, int(np.asarray(batch.column("row")).max()) + 1)
    return kept


def _schema(manifest: Mapping[str, Any], encoders: Mapping[str, Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.schema([
        ("row", pa.int64()), ("id", pa.string()), ("document_id", pa.string()), ("text", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()), ("title", pa.string()), ("metadata", pa.string()), ("content_hash", pa.binary(16)),
        ("document_hash", pa.binary(16)), *(_vector_field(name, fingerprint) for name, fingerprint in encoders.items()),
    ], metadata={KEY: json.dumps(manifest)})


def _vector_field(name: str, fingerprint: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    return pa.field(f"vector_{name}", pa.list_(pa.float32(), int(fingerprint["dimension"])),
                    metadata={KEY: json.dumps(fingerprint)})


def vector_array(vectors: Vectors, kind: Any) -> Any:
    import pyarrow as pa

    if vectors.ndim != 2 or vectors.shape[1] != kind.list_size:
        raise DimensionMismatch(
            f"the encoder gave vectors of shape {vectors.shape}, the index holds {kind.list_size} components each",
            where="commit", hint="index with the encoder that the index was made with, or into a new folder")
    numbers = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(numbers, kind.list_size)


def _among(document_ids: Sequence[str]) -> str:
    quoted = ", ".join("'" + document_id.replace("'", "''") + "'" for document_id in document_ids)
    return f"document_id IN ({quoted})"
