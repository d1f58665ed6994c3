"""Dense encoders of an index: finding them by fingerprint, and adding one to passages that are already stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np

from ...rag.errors import ConfigError, DimensionMismatch, StageError
from ...rag.models.encoding import Encoder, OpenEncoder, Vectors
from ...rag.parts import part
from ...rag.progress import Advance, progress_bar
from ..encoders.stored import column_name, require_same, stored_encoder
from ..stores.lance import commits
from ..stores.lance.store import KEY, LanceStore, commit_of, full_texts
from ..stores.lance.writer import StoreWriter, storage_errors
from .pace import Pace

_BLOCK = 2048


def index_encoders(wanted: str | Encoder | None, existing: LanceStore | None, default: str) -> dict[str, Encoder]:
    """The encoders that a job must run, by column name: all that the index holds, and the one that is asked for."""
    stored = existing.encoders if existing is not None else {}
    chosen = (None if existing is not None else default) if wanted == "auto" else wanted
    if chosen is not None and (not chosen or not isinstance(chosen, str | Encoder)):
        raise ConfigError(f"{chosen!r:.80} is no encoder", where="encoder", hint="give a model's name or an Encoder")
    asked = None if chosen is None else part(Encoder, chosen)
    encoders = {name: stored_encoder(f) for name, f in stored.items() if asked is None or name != column_name(asked.name)}
    if asked is not None:
        encoders[column_name(asked.name)] = asked
    return encoders


def encode_existing(
    writer: StoreWriter, name: str, fingerprint: dict[str, Any], one: OpenEncoder, *, progress: bool | None, commit_seconds: float,
) -> None:
    """Make sure the store has the column of ``one``; encode the passages that are there already.

    The vectors gather in a dataset of their own, written after so many passages or ``commit_seconds``, so that a killed job goes on where
    it stopped; one transaction then adds them all. Raises ``FingerprintMismatch`` when the column holds another encoder's vectors.
    """
    stored = LanceStore(writer.path).encoders
    if name in stored:
        require_same(name, stored[name], fingerprint, str(writer.path))
        return
    if len(writer) == 0:
        writer.add_encoder(name, fingerprint)
        return
    if not writer.manifest["text"]:
        raise StageError("an encoder cannot be added: the index stores no text", where=str(writer.path),
                         hint="index again into a new folder")
    home = writer.path / "pending" / f"{name}.lance"
    identity = {"fingerprint": fingerprint, "commit": commit_of(writer.dataset, int(writer.dataset.version))}
    with storage_errors(writer.path, "the disk refused the new encoder's vectors; what is encoded is kept"):
        pending = _Pending(home, identity, one.dimension)
        with progress_bar(f"encoding with {name}", len(writer), "passages", enabled=progress) as advance:
            advance(len(pending), "")
            _encode_rest(writer, one, pending, Pace(commit_seconds), advance)
    writer.add_encoder(name, fingerprint, pending.blocks())
    shutil.rmtree(home.parent, ignore_errors=True)


def _encode_rest(writer: StoreWriter, one: OpenEncoder, pending: _Pending, pace: Pace, advance: Advance) -> None:
    """Encode the passages that ``pending`` lacks. What is encoded is kept when the job breaks off."""
    waiting: list[Vectors] = []

    def keep() -> None:
        vectors = waiting[:]
        waiting.clear()  # first: whatever happens, nothing is written twice
        if vectors:
            pending.append(np.concatenate(vectors))
        pace.restart()

    try:
        for texts in _blocks(writer, len(pending)):
            start = 0
            while start < len(texts):
                block = texts[start:start + pace.block]
                began = pace.now()
                waiting.append(checked_vectors(one, block))
                pace.encoded(len(block), pace.now() - began)
                start += len(block)
                advance(len(block), "")
                if sum(map(len, waiting)) >= _BLOCK or pace.due:
                    keep()
    finally:
        keep()


def checked_vectors(one: OpenEncoder, texts: Sequence[str]) -> Vectors:
    """Encode, and refuse vectors of another shape or with NaN before they reach the store."""
    vectors = one.encode_passages(texts)
    if vectors.shape != (len(texts), one.dimension):
        raise DimensionMismatch(f"the encoder gave {vectors.shape} for {len(texts)} passages of {one.dimension} components",
                                where=f"encoder {one.name!r}", hint="its dimension and its output must agree")
    if not np.isfinite(vectors).all():
        raise StageError("a vector is not finite", where=f"encoder {one.name!r}", hint="the model gave NaN: try another dtype or device")
    return vectors


def _blocks(writer: StoreWriter, start: int) -> Iterator[list[str]]:
    scanner = writer.dataset.scanner(columns=["title", "text"], batch_size=_BLOCK, offset=start or None, scan_in_order=True)
    for batch in scanner.to_batches():
        yield full_texts(batch)


class _Pending:
    """Vectors on their way into the store: a Lance dataset, valid for one fingerprint and one commit of the store."""

    def __init__(self, home: Path, identity: Mapping[str, Any], dimension: int) -> None:
        import pyarrow as pa

        mark = dumps(identity, sort_keys=True).encode()
        self._schema = pa.schema([pa.field("vector", pa.list_(pa.float32(), dimension))], metadata={KEY: mark})
        kept = _opened(home, mark)
        self._dataset = commits.create(home, self._schema) if kept is None else kept

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def append(self, vectors: Vectors) -> None:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        self._dataset = commits.append(self._dataset, pa.table([column], schema=self._schema))

    def blocks(self) -> Iterator[Vectors]:
        for batch in self._dataset.scanner(scan_in_order=True).to_batches():
            column = batch.column("vector")
            yield np.asarray(column.flatten()).reshape(len(column), -1)


def _opened(home: Path, mark: bytes) -> Any | None:
    """The dataset in ``home`` where it is there, whole, and has this mark."""
    import lance

    try:
        dataset = lance.dataset(str(home), session=commits.without_cache())
        return dataset if (dataset.schema.metadata or {}).get(KEY) == mark else None
    except (ValueError, OSError):
        return None
