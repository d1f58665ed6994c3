"""A second kind of store, in one SQLite file: ``sqlite:/path``, once ``SQLite`` is registered under that scheme."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from regard.indexers.stores.changes import Changes, content_hash
from regard.indexers.stores.filters import compile_filters, expect_known
from regard.indexers.stores.findings import Finding, repair_command
from regard.indexers.stores.locks import storage_errors
from regard.indexers.stores.protocols import EncodeTexts
from regard.rag import Passage
from regard.rag.errors import ConfigError, DimensionMismatch, FingerprintMismatch, IndexFormatError, IndexNotFound
from regard.rag.files import local_path

FILE = "passages.sqlite"
_MAKE = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE commits (version INTEGER PRIMARY KEY, id TEXT);
CREATE TABLE encoders (name TEXT PRIMARY KEY, fingerprint TEXT);
CREATE TABLE passages (row INTEGER PRIMARY KEY, id TEXT, document_id TEXT, text TEXT, start INTEGER, end INTEGER,
                       title TEXT, metadata TEXT, content_hash BLOB, document_hash BLOB);
CREATE TABLE vectors (encoder TEXT, row INTEGER, vector BLOB, PRIMARY KEY (encoder, row));
CREATE TABLE pending (encoder TEXT, mark TEXT, vector BLOB);
"""
_PASSAGES = "SELECT * FROM passages ORDER BY row"


def connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path / FILE, isolation_level=None)
    database.execute("PRAGMA secure_delete = ON")
    return database


class SQLite:
    scheme = "sqlite"
    packages: ClassVar[dict[str, str]] = {}

    def exists(self, path: Path) -> bool:
        if not (path / FILE).exists():
            return False
        with closing(connect(path)) as database:
            return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'commits'").fetchone())

    def version(self, path: Path) -> int | None:
        return self.open(path).version if self.exists(path) else None

    def open(self, path: str | Path) -> SQLiteStore:
        return SQLiteStore(local_path(path, "index"))

    serve = open

    def write(self, path: Path, *, chunker: Mapping[str, Any] | None = None, text: bool = True,
              encoders: Mapping[str, Mapping[str, Any]] | None = None) -> SQLiteWriter:
        return SQLiteWriter(path, chunker, text, encoders or {})

    def upkeep(self, path: Path) -> SQLiteUpkeep:
        return SQLiteUpkeep(path)

    def check(self, path: Path) -> SQLiteCheck:
        return SQLiteCheck(path)


class SQLiteStore:
    """Read whole when it is opened, so that nothing changes it."""

    def __init__(self, path: Path) -> None:
        if not SQLite().exists(path):
            raise IndexNotFound(f"there is no index at {path}", where=str(path), hint="make one")
        self.path = path
        try:
            with closing(connect(path)) as database:
                database.execute("BEGIN")
                self.manifest: dict[str, Any] = json.loads(_meta(database, "manifest"))
                self._commits: dict[int, str] = dict(database.execute("SELECT * FROM commits ORDER BY version"))
                self.encoders = _encoders(database)
                self._records = database.execute(_PASSAGES).fetchall()
                self._vectors = {name: _matrix(database, name, one) for name, one in self.encoders.items()}
        except (sqlite3.Error, ValueError) as error:
            raise IndexFormatError(f"the store cannot be read: {error}", where=str(path), hint="repair it") from None
        self.version, self.commit = max(self._commits.items())
        self.rows = np.array([record[0] for record in self._records], dtype=np.int64)
        self.uri = f"sqlite:{path}"
        self.fingerprint = f"{self.manifest['id']}:{self.version}:{self.commit}"
        self.has_text = bool(self.manifest["text"])

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None: ...

    def documents(self) -> int:
        return len({record[2] for record in self._records})

    def document_hashes(self) -> Iterator[tuple[str, bytes]]:
        return ((record[2], record[9]) for record in self._records)

    def descends_from(self, version: int, commit: str) -> bool:
        return self._commits.get(version) == commit

    def unchanged_since(self, commit: str) -> bool:
        return commit == self.commit

    def _places(self, rows: Any) -> list[int]:
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
            raise ConfigError("these are no rows", where=str(self.path))
        places = {int(row): place for place, row in enumerate(self.rows)}
        if any(int(row) not in places for row in wanted):
            raise IndexFormatError("a ranking names passages that this index no longer holds", where=str(self.path))
        return [places[int(row)] for row in wanted]

    def passages(self, rows: Any) -> list[Passage]:
        return [self._passage(self._records[place]) for place in self._places(rows)]

    def _passage(self, record: tuple[Any, ...]) -> Passage:
        passage = _passage(record)
        if self.has_text and content_hash(passage) != record[8]:
            raise IndexFormatError(f"the text of passage {passage.id!r} is not what was indexed", where=str(self.path))
        return passage

    def document_ids(self, rows: Any) -> list[str]:
        return [self._records[place][2] for place in self._places(rows)]

    def contents(self, rows: Any = None) -> Any:
        chosen = self._records if rows is None else [self._records[place] for place in self._places(rows)]
        return np.frombuffer(b"".join(record[8] for record in chosen), np.int64).reshape(-1, 2)

    def texts(self, batch_size: int = 3) -> Iterator[list[str]]:
        texts = [_passage(record).full_text for record in self._records]
        return (texts[i:i + batch_size] for i in range(0, len(texts), batch_size))

    def vectors(self, encoder: str, batch_size: int = 3, start: int = 0) -> Iterator[Any]:
        if encoder not in self.encoders:
            raise IndexNotFound(f"the index has no vectors of {encoder!r}", where=str(self.path))
        matrix = self._vectors[encoder]
        return (matrix[i:i + batch_size] for i in range(start, len(matrix), batch_size))

    def select(self, filters: Mapping[str, Any]) -> Any:
        accept = compile_filters(filters)
        fields = [{**json.loads(r[7]), "id": r[1], "document_id": r[2], "title": r[6]} for r in self._records]
        if fields:
            expect_known(filters, {name for one in fields for name in one}, str(self.path))
        return self.rows[np.array([accept(one) for one in fields], dtype=np.bool_)] if fields else self.rows


class SQLiteWriter:
    atomic = True

    def __init__(self, path: Path, chunker: Any, text: bool, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        self.path = path
        self._database = connect(path)
        if not SQLite().exists(path):
            if chunker is None:
                raise IndexNotFound(f"there is no index at {path}", where=str(path), hint="make one")
            manifest = {"id": uuid.uuid4().hex, "chunker": dict(chunker), "text": text}
            with self._commit():
                for statement in _MAKE.split(";"):
                    self._database.execute(statement)
                self._set("manifest", json.dumps(manifest))
                self._set("next_row", "0")
                for name, fingerprint in encoders.items():
                    self._database.execute("INSERT INTO encoders VALUES (?, ?)", (name, json.dumps(fingerprint)))
        self.manifest: dict[str, Any] = json.loads(_meta(self._database, "manifest"))
        if chunker is not None and chunker["fingerprint"] != self.manifest["chunker"]["fingerprint"]:
            raise FingerprintMismatch("this index was made with another chunker", where=str(path))

    @contextmanager
    def _commit(self, *, counts: bool = True) -> Iterator[None]:
        """One transaction; a commit of the store, where it ``counts``."""
        with storage_errors(self.path, "the disk refused a commit; everything committed before is safe"):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                if counts:
                    self._database.execute("INSERT INTO commits (id) VALUES (?)", (uuid.uuid4().hex,))
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise OSError(str(error)) from error
                raise

    def _set(self, key: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _one(self, question: str, *values: Any) -> Any:
        return self._database.execute(question, values).fetchone()[0]

    def __len__(self) -> int:
        return int(self._one("SELECT COUNT(*) FROM passages"))

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        return _encoders(self._database)

    def next_row(self) -> int:
        return int(_meta(self._database, "next_row"))

    def document_hashes(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._database.execute("SELECT document_id, document_hash FROM passages").fetchall())

    def stored_vectors(self, document_ids: Sequence[str], encoder: str) -> dict[bytes, Any]:
        wanted = set(document_ids)
        question = "SELECT document_id, content_hash, vector FROM passages JOIN vectors USING (row) WHERE encoder = ?"
        found = self._database.execute(question, (encoder,))
        return {digest: np.frombuffer(vector, np.float32) for name, digest, vector in found if name in wanted}

    def texts(self, batch_size: int = 3, start: int = 0) -> Iterator[list[str]]:
        texts = [_passage(record).full_text for record in self._database.execute(_PASSAGES)][start:]
        return (texts[i:i + batch_size] for i in range(0, len(texts), batch_size))

    def commit(self, changes: Changes, first_row: int) -> None:
        with self._commit():
            self._remove(changes.replaced)
            for i, (p, digest) in enumerate(zip(changes.passages, changes.hashes, strict=True)):
                text = p.text if self.manifest["text"] else ""
                self._database.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
                    first_row + i, p.id, p.document_id, text, p.start, p.end, p.title,
                    json.dumps(p.metadata, sort_keys=True, default=str), content_hash(p), digest))
            for name, fingerprint in self.encoders.items():
                rows = range(first_row, first_row + len(changes))
                self._put(name, fingerprint, zip(rows, changes.vectors[name], strict=True))
            self._set("next_row", str(max(self.next_row(), first_row + len(changes))))

    def _put(self, name: str, fingerprint: Mapping[str, Any], vectors: Any) -> None:
        for row, vector in vectors:
            if vector.shape != (int(fingerprint["dimension"]),):
                raise DimensionMismatch(f"vectors of shape {vector.shape}", where="commit")
            self._database.execute("INSERT INTO vectors VALUES (?, ?, ?)", (name, int(row), _bytes(vector)))

    def _remove(self, document_ids: Sequence[str]) -> int:
        before = len(self)
        names = [(name,) for name in document_ids]
        self._database.executemany("DELETE FROM vectors WHERE row IN (SELECT row FROM passages WHERE document_id = ?)",
                                   names)
        self._database.executemany("DELETE FROM passages WHERE document_id = ?", names)
        return before - len(self)

    def delete(self, document_ids: Sequence[str]) -> int:
        if not {name for name, _ in self.document_hashes()} & set(document_ids):
            return 0
        with self._commit():
            return self._remove(document_ids)

    def add_encoder(self, name: str, fingerprint: Mapping[str, Any], vectors: Iterator[Any] | None = None) -> None:
        rows = [record[0] for record in self._database.execute(_PASSAGES)]
        with self._commit():
            self._database.execute("INSERT INTO encoders VALUES (?, ?)", (name, json.dumps(fingerprint)))
            self._put(name, fingerprint, zip(rows, (one for block in vectors or () for one in block), strict=True))

    def pending(self, name: str, fingerprint: Mapping[str, Any]) -> SQLitePending:
        mark = json.dumps([fingerprint, self._one("SELECT id FROM commits ORDER BY version DESC")], sort_keys=True)
        with self._commit(counts=False):
            self._database.execute("DELETE FROM pending WHERE encoder = ? AND mark != ?", (name, mark))
        return SQLitePending(self, name, mark)

    def discard_pending(self) -> None:
        with self._commit(counts=False):
            self._database.execute("DELETE FROM pending")


class SQLitePending:
    def __init__(self, writer: SQLiteWriter, name: str, mark: str) -> None:
        self._writer, self._name, self._mark = writer, name, mark

    def __len__(self) -> int:
        return int(self._writer._one("SELECT COUNT(*) FROM pending WHERE encoder = ?", self._name))

    def append(self, vectors: Any) -> None:
        with self._writer._commit(counts=False):
            self._writer._database.executemany("INSERT INTO pending VALUES (?, ?, ?)",
                                               [(self._name, self._mark, _bytes(vector)) for vector in vectors])

    def blocks(self) -> Iterator[Any]:
        found = self._writer._database.execute("SELECT vector FROM pending WHERE encoder = ? ORDER BY rowid",
                                               (self._name,))
        for (vector,) in found.fetchall():
            yield np.frombuffer(vector, np.float32)[None]


class SQLiteUpkeep:
    """There is one version, in one piece; nobody needs an older one."""

    fragments: ClassVar[int] = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = SQLiteStore(path).version

    def expect_removable(self, keep: int, wait: float) -> None: ...

    def compact(self, purge: bool) -> None:
        with closing(connect(self.path)) as database:
            database.execute("VACUUM")

    def remove_versions(self, keep: int) -> int:
        return 0

    def kept(self, keep: int) -> list[str]:
        return []

    def sweep(self) -> None: ...


class SQLiteCheck:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = self.bytes = 0
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []
        self._damaged: set[str] = set()

    def run(self, progress: bool | None) -> SQLiteStore | None:
        self.files, self.bytes = 1, (self.path / FILE).stat().st_size
        try:
            store = SQLiteStore(self.path)
        except IndexFormatError as error:
            self.problems.append(Finding(FILE, error.what, "index into a new folder"))
            return None
        self._damaged = {r[2] for r in store._records if store.has_text and content_hash(_passage(r)) != r[8]}
        self.problems += [Finding(FILE, f"{name} is not what was indexed", repair_command(self.path))
                          for name in self._damaged]
        return store

    def go_back(self) -> list[str]:
        return []

    def repair(self, encode: EncodeTexts) -> tuple[list[str], list[str]]:
        if not self._damaged:
            return [], []
        SQLite().write(self.path).delete(sorted(self._damaged))
        return [f"{len(self._damaged)} documents are taken out"], sorted(self._damaged)


def _meta(database: sqlite3.Connection, key: str) -> str:
    return str(database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def _encoders(database: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    found = database.execute("SELECT name, fingerprint FROM encoders ORDER BY rowid")
    return {name: json.loads(fingerprint) for name, fingerprint in found}


def _matrix(database: sqlite3.Connection, name: str, fingerprint: Mapping[str, Any]) -> Any:
    found = database.execute("SELECT vector FROM vectors WHERE encoder = ? ORDER BY row", (name,)).fetchall()
    return np.frombuffer(b"".join(vector for (vector,) in found), np.float32).reshape(-1, int(fingerprint["dimension"]))


def _passage(record: tuple[Any, ...]) -> Passage:
    _, name, document, text, start, end, title, metadata, *_ = record
    return Passage(name, document, text, start, end, title, json.loads(metadata))


def _bytes(vector: Any) -> bytes:
    return np.ascontiguousarray(vector, dtype=np.float32).tobytes()
