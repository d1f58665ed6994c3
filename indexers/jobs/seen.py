"""Which documents an index holds, kept on disk, so that a job's memory does not grow with its corpus."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

from ...rag.errors import StorageError

_CACHE_KIB = 4096


class SeenDocuments:
    """A map from document id to document hash in a private temporary SQLite file, which goes with this object."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (f"PRAGMA cache_size = -{_CACHE_KIB}", "PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF",
                          "CREATE TABLE seen (id BLOB PRIMARY KEY, hash BLOB) WITHOUT ROWID", "BEGIN"):
            self._database.execute(statement)

    def get(self, document_id: str) -> bytes | None:
        """The document's hash, or None when it was not seen."""
        found = self._database.execute("SELECT hash FROM seen WHERE id = ?", (document_key(document_id),)).fetchone()
        return found[0] if found else None

    def add(self, documents: Iterable[tuple[str, bytes]]) -> None:
        """Remember documents; a later hash replaces an earlier one."""
        rows = ((document_key(name), digest) for name, digest in documents)
        try:
            self._database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise StorageError(f"the set of seen documents cannot be kept: {error}",
                               where="the folder for temporary files",
                               hint="free some space there, or set TMPDIR to another folder; then run the same "
                                    "command again") from None


def document_key(document_id: str) -> bytes:
    """16 bytes that stand for an id, however long it is."""
    return hashlib.blake2b(document_id.encode(), digest_size=16).digest()
