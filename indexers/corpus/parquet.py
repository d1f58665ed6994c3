"""Parquet tables, one file or a folder of shards, read in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rag.errors import CorpusError
from ...rag.nouns import Document
from . import records
from .limits import Limits
from .lines import Refuse, members
from .skips import OnSkip, Skip, Unreadable

SUFFIXES = (".parquet",)
_ROWS = 512
_BATCH_BYTES = 64_000_000
_RATIO_FROM = 64_000_000
_BUFFER = 1 << 20  # of a column's bytes: without it they are all read first


def read(path: Path, source: str, limits: Limits, on_skip: OnSkip) -> Iterator[Document]:
    """Documents row by row, fields named as in JSON lines; columns of lists (vectors, say) are not read.

    A row without id or text is a skip. Raises ``CorpusError`` for a table without such columns or a file that is no
    Parquet.
    """
    import pyarrow

    def refuse(location: str, reason: str) -> None:
        on_skip(Skip(source, location, reason))

    for file in members(path, SUFFIXES, limits, refuse):
        row = 0
        try:
            for number, record in _records(file, limits, refuse):
                row = number
                try:
                    yield limits.checked(records.document(record))
                except Unreadable as error:
                    refuse(f"{file} row {row}", str(error))
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"the Parquet file cannot be read: {error}", where=f"{file}, after row {row}") from None


def _records(file: Path, limits: Limits, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(row from 1, its fields)``."""
    row = 0
    with _open(file) as table:
        columns = _columns(table, file)
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            size, packed = _sizes(group, columns)
            if size > max(_RATIO_FROM, packed * limits.decompressed_ratio):
                grown = limits.over(f"a table that grows {size // max(1, packed)} times when decompressed",
                                    "decompressed_ratio")
                refuse(f"{file} rows {row + 1} to {row + group.num_rows}", str(grown))
                row += group.num_rows
                continue
            each = max(size // max(1, group.num_rows), _longest_repeated(file, number, group, columns), 1)
            for batch in table.iter_batches(max(1, min(_ROWS, _BATCH_BYTES // each)), row_groups=[number],
                                            columns=columns):
                yield from _rows_within(batch, row, file, limits, refuse)
                row += len(batch)


def _rows_within(batch: Any, row: int, file: Path, limits: Limits, refuse: Refuse) -> Iterator[tuple[int,
                                                                                                     dict[str, Any]]]:
    """The rows of ``batch``, which come after ``row``, less those that are too long."""
    lengths = _row_bytes(batch)
    step = len(batch) if lengths.max(initial=0) <= limits.record_bytes else 1
    for start in range(0, len(batch), step):
        if step == 1 and lengths[start] > limits.record_bytes:
            refuse(f"{file} row {row + start + 1}",
                   str(limits.over(f"a row of {lengths[start]:,} bytes", "record_bytes")))
        else:
            yield from enumerate(batch.slice(start, step).to_pylist(), row + start + 1)


def _sizes(group: Any, columns: list[str]) -> tuple[int, int]:
    """Bytes of these columns in a row group: as the values are, and as they are stored."""
    wanted = [chunk for chunk in _chunks(group) if chunk.path_in_schema.split(".")[0] in columns]
    return sum(chunk.total_uncompressed_size for chunk in wanted), sum(chunk.total_compressed_size for chunk in wanted)


def _longest_repeated(file: Path, number: int, group: Any, columns: list[str]) -> int:
    """Bytes of the longest string that the row group stores once, however often it comes: many rows may hold it."""
    from pyarrow import compute

    names = [c.path_in_schema for c in _chunks(group) if c.has_dictionary_page and c.physical_type == "BYTE_ARRAY"]
    names = [name for name in names if name in columns]
    if not names or not group.num_rows:
        return 0
    with _open(file, names) as table:
        first = next(table.iter_batches(1, row_groups=[number], columns=names))
    return max((compute.max(compute.binary_length(column.dictionary)).as_py() or 0 for column in first.columns),
               default=0)


def _chunks(group: Any) -> list[Any]:
    return [group.column(i) for i in range(group.num_columns)]


def _row_bytes(batch: Any) -> NDArray[np.int64]:
    """How long the strings of each row are together, int64 [rows]."""
    from pyarrow import compute, types

    kinds = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    total = np.zeros(len(batch), dtype=np.int64)
    for column in batch.columns:
        if any(is_kind(column.type) for is_kind in kinds):
            total += np.asarray(compute.binary_length(column).fill_null(0)).astype(np.int64)
    return total


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


def _open(file: Path, repeating: list[str] | None = None) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, read_dictionary=repeating, buffer_size=_BUFFER)


def _columns(table: Any, file: Path) -> list[str]:
    """The columns worth reading: plain values, and ``metadata`` whatever it is."""
    from pyarrow import types

    schema = table.schema_arrow
    for what, names in (("id", records.IDS), ("text", records.TEXTS)):
        if not set(names) & set(schema.names):
            raise CorpusError(f"the table has no {what} column", where=str(file),
                              hint=f"name one of {', '.join(names)}; the columns are {', '.join(schema.names)}")
    return [field.name for field in schema if field.name == "metadata" or not types.is_nested(field.type)]
