"""Parquet tables, one file or a folder of shards, read in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...rag.documents import Document
from ...rag.errors import CorpusError
from . import records
from .limits import Limits
from .lines import members
from .skips import OnSkip, Skip, Unreadable

SUFFIXES = (".parquet",)
_ROWS = 512


def read(path: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """Documents row by row, fields named as in JSON lines; columns of lists (vectors, say) are not read.

    A row without id or text is a skip. Raises ``CorpusError`` for a table without such columns or a file that is no Parquet.
    """
    import pyarrow

    def refuse(location: str, reason: str) -> None:
        on_skip(Skip(source, location, reason))

    for file in members(path, SUFFIXES, limits, refuse):
        row = 0
        try:
            with _open(file) as table:
                for batch in table.iter_batches(batch_size=_ROWS, columns=_columns(table, file)):
                    for record in batch.to_pylist():
                        row += 1
                        try:
                            yield limits.checked(records.document(record))
                        except Unreadable as error:
                            refuse(f"{file} row {row}", str(error))
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"the Parquet file cannot be read: {error}", where=f"{file}, after row {row}") from None


def estimate(path: Path) -> int | None:
    """The row counts that the files' footers give."""
    import pyarrow

    try:
        return sum(_rows(file) for file in members(path, SUFFIXES, Limits(), lambda *_: None))
    except (pyarrow.ArrowException, OSError):
        return None


def _rows(file: Path) -> int:
    with _open(file) as table:
        return int(table.metadata.num_rows)


def _open(file: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file)


def _columns(table: Any, file: Path) -> list[str]:
    """The columns worth reading: plain values, and ``metadata`` whatever it is."""
    from pyarrow import types

    schema = table.schema_arrow
    for what, names in (("id", records.IDS), ("text", records.TEXTS)):
        if not set(names) & set(schema.names):
            raise CorpusError(f"the table has no {what} column", where=str(file),
                              hint=f"name one of {', '.join(names)}; the columns are {', '.join(schema.names)}")
    return [field.name for field in schema if field.name == "metadata" or not types.is_nested(field.type)]
