"""What an index asks of the store of its passages. A store is of a *kind*, which the table ``regard.stores`` finds by
the scheme of its URI.

An index is a folder, ``path``, whatever keeps its passages: the lock, the notes on jobs and sources, and the views lie
there (``views/<name>/<version>/``), and a store keeps there what it needs, be it the whole of it or the name of a
server.

A store has *versions*, numbered upwards by its commits. A number may be given again in another history (a restored
backup), so what is derived from a store names the *commit* too: a text that no two commits share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ...rag.models.encoding import Vectors
from ...rag.nouns import FilteredStore, Rows
from .changes import Changes, Contents
from .findings import Finding

Fingerprint = Mapping[str, Any]
EncodeTexts = Callable[[Fingerprint, Sequence[str]], Vectors]
"""float32 [n, d]: the vectors of n texts by the encoder with this fingerprint."""


class StoredVectors(Protocol):
    """The dense vectors of a store, a column for each encoder."""

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """Fingerprint of each dense encoder, by its name in this index, in the order in which they were added."""

    def vectors(self, encoder: str, batch_size: int = ..., start: int = 0) -> Iterator[Vectors]:
        """float32 [n, d] of every passage from position ``start`` on, in the store's order; a few blocks are in memory
        at a time.

        Raises ``IndexNotFound`` for an encoder that the index does not have.
        """


class Store(FilteredStore, StoredVectors, Protocol):
    """The passages of an index as they were when it was opened; nothing that a writer does afterwards changes what it
    gives.

    Every method raises ``IndexFormatError`` for what is damaged. Safe to use from several threads.
    """

    path: Path
    """The index's folder."""
    manifest: dict[str, Any]
    """``id``: of these passages, in whatever history, kept by a copy; ``chunker``: its ``spec`` and ``fingerprint``;
    ``text``: whether texts are stored."""
    version: int
    commit: str

    def __len__(self) -> int:
        """How many passages there are."""

    @property
    def rows(self) -> Rows:
        """Every row number, int64, in the store's order: that in which they were committed."""

    def documents(self) -> int:
        """How many documents have passages here."""

    def document_hashes(self) -> Iterator[tuple[str, bytes]]:
        """The id and ``changes.document_hash`` of every document that has passages, each at least once."""

    def texts(self, batch_size: int = ...) -> Iterator[list[str]]:
        """What encoders and BM25 read of every passage (``Passage.full_text``), in the store's order."""

    def contents(self, rows: Sequence[int] | Rows | None = None) -> Contents:
        """``changes.content_hash`` of each of ``rows`` (None: of all, in the store's order), int64 [n, 2]. Two rows of
        two histories with the same number are the same passage only where these agree."""

    def descends_from(self, version: int, commit: str) -> bool:
        """Whether ``commit`` made ``version`` in this very history; False too where that is not known any more."""

    def unchanged_since(self, commit: str) -> bool:
        """Whether ``commit`` holds these very passages in this very order; False too where that is not known any
        more."""

    def close(self) -> None:
        """Let go of the version: it may be removed from now on. What is forgotten closes by itself."""


class Pending(Protocol):
    """Vectors on their way into a store, kept on disk for a job that is killed while it computes them."""

    def __len__(self) -> int: ...

    def append(self, vectors: Vectors) -> None:
        """float32 [n, d]; on the disk when this returns."""

    def blocks(self) -> Iterator[Vectors]:
        """All of them, in order."""


class Writer(Protocol):
    """The only writer of an index, for who holds its lock (``locks.locked``).

    Every method that changes the index makes one commit, which names only what has reached the disk. Raises
    ``StorageError`` for what the disk refuses; everything committed before is safe then.
    """

    path: Path
    manifest: dict[str, Any]
    atomic: bool
    """Whether a commit is there whole or not at all, under any kill. Where not, a killed commit may leave a part of it,
    whole documents of it at a time, and none of what it replaces is gone before what replaces it is there."""

    def __len__(self) -> int:
        """How many passages are committed."""

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """As in ``StoredVectors``."""

    def next_row(self) -> int:
        """The first row number that was never given out, not even to a passage that was deleted."""

    def document_hashes(self) -> Iterator[tuple[str, bytes]]:
        """As in ``Store``, of what is committed now."""

    def stored_vectors(self, document_ids: Sequence[str], encoder: str) -> dict[bytes, Any]:
        """Vectors, float32 [d], of these documents' passages by content hash, so that an edited document re-encodes
        only what changed."""

    def texts(self, batch_size: int = ..., start: int = 0) -> Iterator[list[str]]:
        """What encoders read of every committed passage from position ``start`` on, in the store's order."""

    def commit(self, changes: Changes, first_row: int) -> None:
        """Add passages with their vectors, which get the rows from ``first_row`` on, in the place of those of
        ``changes.replaced``.

        Raises ``DimensionMismatch`` for vectors of another shape than the column's.
        """

    def delete(self, document_ids: Sequence[str]) -> int:
        """Remove documents; how many passages went. Where there are none of them, there is no commit."""

    def add_encoder(self, name: str, fingerprint: Fingerprint, vectors: Iterator[Vectors] | None = None) -> None:
        """Add an encoder's column. ``vectors`` gives those of the passages already there, in order."""

    def pending(self, name: str, fingerprint: Fingerprint) -> Pending:
        """The vectors that an earlier job computed for this column and these passages, to be gone on with; none where
        there are none."""

    def discard_pending(self) -> None:
        """Forget all vectors on their way: they are in the store."""


class Upkeep(Protocol):
    """A store's life after its first day, for who holds the index's lock. Whatever is killed, the same calls again
    complete it."""

    @property
    def version(self) -> int:
        """The newest one."""

    @property
    def fragments(self) -> int:
        """In how many pieces the passages lie."""

    def expect_removable(self, keep: int, wait: float) -> None:
        """Raise ``DeletionRefused``, naming them, when somebody needs a version before the newest ``keep``, still after
        ``wait`` seconds."""

    def compact(self, purge: bool) -> None:
        """Write the passages together in few pieces, without deleted ones, in the same order; to ``purge`` also so that
        the newest version names nothing that was deleted. Vectors on their way stay those of its passages. No commit
        where there is nothing to do."""

    def remove_versions(self, keep: int) -> int:
        """Remove all versions but the newest ``keep`` and those that somebody needs; how many."""

    def kept(self, keep: int) -> list[str]:
        """Who needs which of the versions before the newest ``keep``, in words."""

    def sweep(self) -> None:
        """Remove all that no version names: of versions that are gone, and of writers that died."""


class Check(Protocol):
    """A reading of all that a store wrote, and mending it. ``files`` and ``bytes`` count what was read."""

    files: int
    bytes: int
    problems: list[Finding]
    """What is damaged; files by their paths in the index."""
    notes: list[Finding]

    def run(self, progress: bool | None) -> Store | None:
        """Read the newest version whole; None where it cannot be opened."""

    def go_back(self) -> list[str]:
        """Undo the newest commit where it cannot be opened; what was done. After that the index is to be checked
        again."""

    def repair(self, encode: EncodeTexts) -> tuple[list[str], list[str]]:
        """Mend what can be mended, and take out the rest, in whole documents: what was done, and the ids of the lost
        documents."""


class StoreKind(Protocol):
    """How stores of one kind are found, opened and made. A kind has a line in the table ``regard.stores``, under its
    ``scheme``."""

    scheme: ClassVar[str]
    packages: ClassVar[Mapping[str, str]]
    """The distribution of each module that it needs beyond Regard's own, for ``regard doctor``."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a store in the folder; none where a creation was killed."""

    def version(self, path: Path) -> int | None:
        """The newest version; None where there is no store."""

    def open(self, path: Path) -> Store:
        """The newest version. Raises ``IndexNotFound`` where there is no store, ``IndexFormatError`` where something
        else lies there."""

    def serve(self, path: Path) -> Store:
        """The version that pipelines read: the newest, but while a job is writing the newest with all its views
        (``serving.finished``), if older versions are kept. May have ``superseded()``: whether it would be another one
        now, at the cost of a few looks at files."""

    def write(
        self, path: Path, *, chunker: Mapping[str, Any] | None = None, text: bool = True,
        encoders: Mapping[str, Fingerprint] | None = None,
    ) -> Writer:
        """The writer of the store, which is made, with columns for ``encoders``, where there is none.

        ``chunker`` is ``{"spec": ..., "fingerprint": {...}}``; None for the one that the index has. ``text`` and
        ``encoders`` are for a new index only. Raises ``FingerprintMismatch`` when the index was made with another
        chunker.
        """

    def upkeep(self, path: Path) -> Upkeep: ...

    def check(self, path: Path) -> Check: ...
