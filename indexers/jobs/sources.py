"""Where each document was last read from, so that a job can tell which ones are no longer there, and two sources' files
apart.

This is bookkeeping beside the index, in ``sources.sqlite``, and not part of it: noting that a folder has moved must not
make every view stale. What it says of a document ("last seen in this source") is true whether or not the document's
passages were committed, so a kill cannot make it wrong. A document that it does not know (an index from before, a
corpus of Python objects) counts as never missing.

**Ids.** The id of a file is its path inside its source, and two sources may both have a ``README.md``. The first one
keeps the plain id. A file whose id another file has gets a qualified one: the path with the name of the source's folder
before it (``handbook/README.md``), with the folders above that as well, until no other file has it; at last with a hash
of the source's real path. A file that has an id keeps it. An id is another file's as long as that file is there: when a
source is moved, its files keep their ids under its new name. Ids that the user gave (JSON lines, BEIR, TREC, Parquet,
Python objects) are never changed: a later document replaces an earlier one, and the job's report counts those that
another source gave before (``replaced_from_other_source``).
"""

# an id may be no file's name (too long, a null): os.path says False, Path raises
# ruff: noqa: PTH110, PTH112, PTH118, PTH120

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...rag.errors import StorageError
from ..corpus import Skip
from ..corpus.python_docs import PREFIX
from .seen import SeenDocuments, document_key

FILE = "sources.sqlite"
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_OPEN = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
BEGIN;
CREATE TABLE IF NOT EXISTS sources (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS documents (id BLOB PRIMARY KEY, source INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS qualified (id BLOB PRIMARY KEY, name TEXT, path TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS qualified_paths ON qualified (path);
COMMIT;
"""
"""A commit waits for no disk: a power failure may take the last ones, as if their documents had not been noted, and
damages nothing."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a document was read from: the source's name, and whether its documents are files, whose ids are their paths
    in it."""

    source: str
    files: bool = False


def source_name(source: str | Path) -> str:
    """One name for one source, however it is spelled: its real path; ``python:...`` as it is."""
    return str(source) if str(source).startswith(PREFIX) else os.path.realpath(source)


class Sources:
    """The source of each document of the index at ``path``. Open it under the index's lock; what is not committed is
    lost."""

    def __init__(self, path: Path) -> None:
        """Raises ``StorageError``."""
        self._path = path / FILE
        with self._errors():
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.executescript(_OPEN)
            self._numbers: dict[str, int] = dict(self._database.execute("SELECT name, number FROM sources"))
            self._names = {number: name for name, number in self._numbers.items()}
            qualifying = "SELECT DISTINCT source FROM documents JOIN qualified USING (id)"
            self._qualifying = {number for (number,) in self._database.execute(qualifying)}
            self._database.execute("BEGIN")

    def id_of(self, document_id: str, origin: Origin | None) -> str:
        """The id of the document that ``origin`` calls ``document_id``: another one for a file whose id another file
        has (see above)."""
        if origin is None or not origin.files:
            return document_id
        plain = self._numbers.get(origin.source) not in self._qualifying
        if plain and self.source_of(document_id) in (None, origin.source):
            return document_id  # for nearly all
        candidates = _candidates(document_id, origin.source)
        own = (c for c in candidates if self._holder(c) == (origin.source, document_id))
        free = (c for c in [document_id, *self._left_behind(document_id), *candidates]
                if not self._is_of_another(c, document_id, origin.source))
        return next(own, None) or next(free, candidates[-1])

    def note(self, document_id: str, origin: Origin | None, path: str | None = None) -> None:
        """The document was just read from ``origin``; None: from something without a name. ``path``: what it is called
        there."""
        key = document_key(document_id)
        with self._errors():
            number = None if origin is None else self._number(origin.source)
            qualified = path if path != document_id else None
            known = self._find(key)
            if (number, qualified) == (known, self._path_of(key) if known in self._qualifying else None):
                return
            if known is not None:
                self._forget(key)
            if number is not None:
                self._database.execute("INSERT INTO documents VALUES (?, ?)", (key, number))
            if number is not None and qualified is not None:
                self._database.execute("INSERT INTO qualified VALUES (?, ?, ?)", (key, document_id, qualified))
                self._qualifying.add(number)

    def source_of(self, document_id: str) -> str | None:
        """The source that the document was last read from."""
        number = self._find(document_key(document_id))
        return None if number is None else self._names[number]

    def path_of(self, document_id: str) -> str:
        """What the document is called in its source."""
        return self._path_of(document_key(document_id)) or document_id

    def names(self) -> list[str]:
        """The sources that documents were read from."""
        return sorted(self._numbers)

    def is_elsewhere(self, document_id: str, origin: Origin | None, path: str) -> bool:
        """Whether the document, called ``path`` in ``origin``, was last read from another source, which is there
        still."""
        holder = self._holder(document_id)
        if holder is None or (origin is not None and holder[0] == origin.source):
            return False
        return os.path.exists(holder[0]) and (origin is None or _file(*holder) != _file(origin.source, path))

    def commit(self) -> None:
        with self._errors():
            if self._database.in_transaction:  # not where an interrupt came between the two
                self._database.execute("COMMIT")
            self._database.execute("BEGIN")

    def emptied(self, documents: Iterable[str]) -> set[str]:
        """The sources that no document is left of when only ``documents`` are."""
        with self._errors():
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS held (id BLOB PRIMARY KEY) WITHOUT ROWID")
            self._database.execute("DELETE FROM held")
            self._database.executemany("INSERT OR IGNORE INTO held VALUES (?)",
                                       ((document_key(name),) for name in documents))
            left = "SELECT source FROM documents JOIN held USING (id)"
            gone = self._database.execute(f"SELECT name FROM sources WHERE number NOT IN ({left})")
            return {name for (name,) in gone}

    def forget_all_but(self, documents: Iterable[str]) -> None:
        """Keep no byte on any other document, nor on a source that none is left of."""
        gone = self.emptied(documents)
        with self._errors():
            self._database.execute("DELETE FROM documents WHERE id NOT IN (SELECT id FROM held)")
            self._database.execute("DELETE FROM qualified WHERE id NOT IN (SELECT id FROM held)")
            self._database.executemany("DELETE FROM sources WHERE name = ?", ((name,) for name in gone))
            self._database.execute("COMMIT")
            self._database.execute("PRAGMA journal_mode = DELETE")  # a write-ahead log would keep what was there
            self._database.execute("VACUUM")  # older versions of this program did not overwrite what they deleted
            self._database.execute("BEGIN")

    def close(self) -> None:
        self._database.close()

    def _number(self, source: str) -> int:
        if source not in self._numbers:
            number = max(self._numbers.values(), default=-1) + 1
            self._database.execute("INSERT INTO sources VALUES (?, ?)", (number, source))
            self._numbers[source] = number
            self._names[number] = source
        return self._numbers[source]

    def _find(self, key: bytes) -> int | None:
        question = "SELECT source FROM documents WHERE id = ?"
        found: tuple[int] | None = self._database.execute(question, (key,)).fetchone()
        return found[0] if found else None

    def _forget(self, key: bytes) -> None:
        self._database.execute("DELETE FROM documents WHERE id = ?", (key,))
        self._database.execute("DELETE FROM qualified WHERE id = ?", (key,))

    def _left_behind(self, path: str) -> list[str]:
        """Qualified ids of files of this path in sources that are no longer there: perhaps the file's own, before its
        source was moved."""
        found = self._database.execute("SELECT name FROM qualified WHERE path = ? ORDER BY name", (path,)).fetchall()
        return [name for (name,) in found]

    def _path_of(self, key: bytes) -> str | None:
        found: tuple[str] | None = self._database.execute("SELECT path FROM qualified WHERE id = ?", (key,)).fetchone()
        return found[0] if found else None

    def _holder(self, document_id: str) -> tuple[str, str] | None:
        """The source that has this id, and what the document is called there."""
        source = self.source_of(document_id)
        return None if source is None else (source, self.path_of(document_id))

    def _is_of_another(self, candidate: str, path: str, source: str) -> bool:
        """Whether ``candidate`` is the id of another file, which is there still, than ``path`` in ``source``."""
        holder = self._holder(candidate)
        if holder is None:
            return False
        file = _file(*holder)
        return os.path.exists(file) and os.path.realpath(file) != os.path.realpath(_file(source, path))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"where documents came from cannot be kept: {error}", where=str(self._path),
                               hint="free some space, then run the same command again; a damaged file may be deleted, "
                                    "the index does not need it") from None


def _candidates(path: str, source: str) -> list[str]:
    """The ids that the file ``path`` of ``source`` may have, best first; the last one is no other file's."""
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in Path(folder).parts[1:]]
    qualified = ["/".join([*names[start:], path]) for start in reversed(range(len(names)))]
    return [path, *qualified, f"{hashlib.blake2b(os.fsencode(folder), digest_size=16).hexdigest()}/{path}"]


def _file(source: str, path: str) -> str:
    """The file that is called ``path`` in ``source``, a folder or the file itself."""
    if not os.path.isdir(source):
        return source
    file = os.path.join(source, path)
    if "\\x" in path and not os.path.exists(file):  # a name that is no UTF-8, as the reader shows it
        return os.fsdecode(_ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(file)))
    return file


class LeftOut:
    """What a reader skipped: a file that is there and cannot be read has not vanished, nor has what lies in an
    unreadable folder.

    Which record of a file of many could not be read is not known: none of that source's counts as surely gone.
    """

    def __init__(self) -> None:
        self._names = SeenDocuments()
        self._folders: list[str] = []
        self._sources: set[str] = set()

    def add(self, skip: Skip) -> None:
        self._sources.add(source_name(skip.source))
        self._names.add([(skip.location, b"")])
        if os.path.isdir(skip.location):
            self._folders.append(Path(os.path.relpath(skip.location, skip.source)).as_posix() + "/")

    def holds(self, path: str) -> bool:
        return path.startswith(tuple(self._folders)) or self._names.get(path) is not None

    def leaves_doubt(self, origin: Origin) -> bool:
        return not origin.files and origin.source in self._sources
