"""The passage store, write side: every commit is one Lance transaction that holds passages and their vectors together."""

from __future__ import annotations

import fcntl
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....rag.errors import DimensionMismatch, FingerprintMismatch, StorageError
from ....rag.files import make_folder
from ....rag.models.encoding import Vectors
from ....rag.nouns import Document, Passage
from . import commits
from .store import DATASET, FORMAT, KEY, content_hash, exists, open_dataset, read_manifest


def document_hash(document: Document) -> bytes:
    """16 bytes that change whenever the document does."""
    content = json.dumps([document.text, document.title, document.metadata], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


@dataclass(slots=True)
class Shard:
    """What one commit writes: passages, the hash of each one's document, and their vectors by encoder name."""

    passages: list[Passage] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    vectors: dict[str, Vectors] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    """Documents whose older passages this commit removes."""

    characters: int = 0

    def add(self, passages: Sequence[Passage], document: bytes) -> None:
        """The passages of one document, whose hash is ``document``."""
        self.passages += passages
        self.hashes += [document] * len(passages)
        self.characters += sum(len(passage.text) for passage in passages)

    def __len__(self) -> int:
        return len(self.passages)

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.passages or self.replaced)


def joined(shards: Sequence[Shard]) -> Shard:
    """One shard that holds what ``shards`` hold, in order."""
    vectors = {name: np.concatenate([shard.vectors[name] for shard in shards]) for name in (shards[0].vectors if shards else ())}
    return Shard([p for s in shards for p in s.passages], [h for s in shards for h in s.hashes], vectors,
                 [name for s in shards for name in s.replaced], sum(s.characters for s in shards))


class StoreWriter:
    """The only writer of an index. Make it inside :func:`locked`."""

    def __init__(
        self, path: Path, *, chunker: Mapping[str, Any], text: bool = True, encoders: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Open the index at ``path``, or create it with the columns of ``encoders`` (fingerprints by name).

        ``chunker`` is ``{"spec": ..., "fingerprint": {...}}``; ``text`` and ``encoders`` are for a new index only.
        Raises ``FingerprintMismatch`` when the index was made with another chunker.
        """
        self.path = path
        if exists(path):
            self.dataset = open_dataset(path, session=commits.without_cache())
            self.manifest = read_manifest(self.dataset, path)
            self._same_chunker(chunker)
        else:
            self.manifest = {"format": FORMAT, "id": uuid.uuid4().hex, "chunker": dict(chunker), "text": text}
            self.dataset = self._create(encoders or {})

    def _create(self, encoders: Mapping[str, Mapping[str, Any]]) -> Any:
        with storage_errors(self.path, "the index cannot be created"):
            return commits.create(self.path / DATASET, _schema(self.manifest, encoders))

    def _same_chunker(self, chunker: Mapping[str, Any]) -> None:
        """Only what decides the passages counts, not how the user spelled it."""
        if chunker["fingerprint"] != self.manifest["chunker"]["fingerprint"]:
            raise FingerprintMismatch(
                f"this index was made with the chunker {self.manifest['chunker']}, not {dict(chunker)}", where=str(self.path),
                hint="use the index's chunker, or index into a new folder")

    def add_encoder(self, name: str, fingerprint: Mapping[str, Any], vectors: Iterator[Vectors] | None = None) -> None:
        """Add an encoder's column in one transaction. ``vectors`` gives those of the passages already there, in order."""
        field = _vector_field(name, fingerprint)
        with storage_errors(self.path, f"the vectors of {name!r} cannot be added"):
            self.dataset = commits.add_column(self.dataset, field, (vector_array(block, field.type) for block in vectors or ()))

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def next_row(self) -> int:
        """The first row number that was never given out."""
        return next_row(self.dataset)

    def commit(self, shard: Shard, first_row: int) -> None:
        """Write ``shard`` whole or not at all; its passages get the rows from ``first_row`` on."""
        table = self._table(shard, first_row)
        with storage_errors(self.path, "the disk refused a commit; everything committed before is safe"):
            if shard.replaced:
                self.dataset = commits.replace(self.dataset, table, "id", _among(shard.replaced))
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
        """Vectors of these documents' passages by content hash, so that an edited document re-encodes only what changed."""
        column = f"vector_{encoder}"
        table = self.dataset.to_table(columns=["content_hash", column], filter=_among(document_ids))
        vectors = table[column].combine_chunks()
        block = np.asarray(vectors.flatten()).reshape(len(vectors), -1) if len(vectors) else np.zeros((0, 1), np.float32)
        return dict(zip(table["content_hash"].to_pylist(), block, strict=True))

    def _table(self, shard: Shard, first_row: int) -> Any:
        import pyarrow as pa

        schema, passages, keep = self.dataset.schema, shard.passages, self.manifest["text"]
        columns: dict[str, Any] = {
            "row": np.arange(first_row, first_row + len(passages), dtype=np.int64),
            "id": [p.id for p in passages], "document_id": [p.document_id for p in passages],
            "text": [p.text if keep else "" for p in passages],
            "start": [p.start for p in passages], "end": [p.end for p in passages],
            "title": [p.title for p in passages],
            "metadata": [json.dumps(p.metadata, sort_keys=True, default=str) for p in passages],
            "content_hash": [content_hash(p) for p in passages], "document_hash": shard.hashes,
        }
        for column in schema:
            if column.name.startswith("vector_"):
                columns[column.name] = vector_array(shard.vectors[column.name.removeprefix("vector_")], column.type)
        return pa.table({column.name: columns[column.name] for column in schema}, schema=schema)


def next_row(dataset: Any) -> int:
    """The first row number that an index's dataset never gave out; no compaction forgets it."""
    kept = int(dataset.config().get("regard.next_row", 0))
    for batch in dataset.scanner(columns=["row"]).to_batches():
        if len(batch):
            kept = max(kept, int(np.asarray(batch.column("row")).max()) + 1)
    return kept


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the folder ``path`` (an index, or one of its views); the kernel drops it when the process dies.

    Raises ``StorageError`` when another process holds it, unless it is to ``wait``.
    """
    with storage_errors(path, "the folder cannot be made"):
        make_folder(path)
        file = (path / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError("another job is writing to this index", where=str(path), hint="wait for it, or stop it") from None
        yield


@contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the file system's and Lance's refusals into a ``StorageError``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).split(", /home/runner")[0][:300]
        raise StorageError(f"{what}: {reason}", where=str(path), hint="free some space or check the permissions, then run the same command "
                           "again: it goes on where it stopped") from error


def _schema(manifest: Mapping[str, Any], encoders: Mapping[str, Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.schema([
        ("row", pa.int64()), ("id", pa.string()), ("document_id", pa.string()), ("text", pa.string()), ("start", pa.int64()),
        ("end", pa.int64()), ("title", pa.string()), ("metadata", pa.string()), ("content_hash", pa.binary(16)),
        ("document_hash", pa.binary(16)), *(_vector_field(name, fingerprint) for name, fingerprint in encoders.items()),
    ], metadata={KEY: json.dumps(manifest)})


def _vector_field(name: str, fingerprint: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    return pa.field(f"vector_{name}", pa.list_(pa.float32(), int(fingerprint["dimension"])), metadata={KEY: json.dumps(fingerprint)})


def vector_array(vectors: Vectors, kind: Any) -> Any:
    import pyarrow as pa

    if vectors.ndim != 2 or vectors.shape[1] != kind.list_size:
        raise DimensionMismatch(f"the encoder gave vectors of shape {vectors.shape}, the index holds {kind.list_size} components each",
                                where="commit", hint="index with the encoder that the index was made with, or into a new folder")
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)), kind.list_size)


def _among(document_ids: Sequence[str]) -> str:
    quoted = ", ".join("'" + document_id.replace("'", "''") + "'" for document_id in document_ids)
    return f"document_id IN ({quoted})"
