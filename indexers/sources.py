"""Where each document was last read from, so that a job can tell which ones are no longer there.

This is bookkeeping beside the index, in ``sources.sqlite``, and not part of it: noting that a folder has moved must not make every view
stale. What it says of a document ("last seen in this source") is true whether or not the document's passages were committed, so a kill
cannot make it wrong. A document that it does not know (an index from before, a corpus of Python objects) counts as never missing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..rag.errors import StorageError
from .corpus import Skip
from .corpus.python_docs import PREFIX
from .seen import SeenDocuments, document_key

FILE = "sources.sqlite"
_OPEN = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
BEGIN;
CREATE TABLE IF NOT EXISTS sources (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS documents (id BLOB PRIMARY KEY, source INTEGER) WITHOUT ROWID;
COMMIT;
"""
"""A commit waits for no disk: a power failure may take the last ones, as if their documents had not been noted, and damages nothing."""


def source_name(source: str | Path) -> str:
    """One name for one source, however it is spelled: its real path; ``python:...`` as it is."""
    return str(source) if str(source).startswith(PREFIX) else os.path.realpath(source)


class Sources:
    """The source of each document of the index at ``path``. Open it under the index's lock; what is not committed is lost."""

    def __init__(self, path: Path) -> None:
        """Raises ``StorageError``."""
        self._path = path / FILE
        with self._errors():
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.executescript(_OPEN)
            self._numbers: dict[str, int] = dict(self._database.execute("SELECT name, number FROM sources"))
            self._database.execute("BEGIN")

    def note(self, document_id: str, source: str | None) -> None:
        """The document was just read from ``source``; None: from something without a name."""
        key = document_key(document_id)
        with self._errors():
            number = None if source is None else self._number(source)
            if number == self._find(key):
                return
            self._database.execute("DELETE FROM documents WHERE id = ?", (key,))
            if number is not None:
                self._database.execute("INSERT INTO documents VALUES (?, ?)", (key, number))

    def holds(self, sources: Collection[str], document_id: str) -> bool:
        """Whether the document was last read from one of ``sources``."""
        number = self._find(document_key(document_id))
        return number is not None and any(self._numbers.get(name) == number for name in sources)

    def commit(self) -> None:
        with self._errors():
            if self._database.in_transaction:  # not where an interrupt came between the two
                self._database.execute("COMMIT")
            self._database.execute("BEGIN")

    def close(self) -> None:
        self._database.close()

    def _number(self, source: str) -> int:
        if source not in self._numbers:
            self._database.execute("INSERT INTO sources VALUES (?, ?)", (len(self._numbers), source))
            self._numbers[source] = len(self._numbers)
        return self._numbers[source]

    def _find(self, key: bytes) -> int | None:
        found: tuple[int] | None = self._database.execute("SELECT source FROM documents WHERE id = ?", (key,)).fetchone()
        return found[0] if found else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"where documents came from cannot be kept: {error}", where=str(self._path),
                               hint="free some space, then run the same command again; a damaged file may be deleted, the index does "
                                    "not need it") from None


class LeftOut:
    """What a reader skipped: a file that is there and cannot be read has not vanished, nor has what lies in an unreadable folder."""

    def __init__(self) -> None:
        self._names = SeenDocuments()
        self._folders: list[str] = []

    def add(self, skip: Skip) -> None:
        self._names.add([(skip.location, b"")])
        if os.path.isdir(skip.location):  # noqa: PTH112  # Path.is_dir raises for a location that is no file's, but too long for one
            self._folders.append(Path(os.path.relpath(skip.location, skip.source)).as_posix() + "/")

    def holds(self, document_id: str) -> bool:
        return document_id.startswith(tuple(self._folders)) or self._names.get(document_id) is not None
