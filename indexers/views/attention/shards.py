"""Shards: folders of passages' keys and values that are committed whole, by a rename, and never changed.

``data.bin`` has the passages' ranges (``layout``) one after the other, ``ids.npy`` (int32) their tokens, and
``passages.npy`` (int64 [passages, 6]) the columns ``ROW``, ``TOKENS``, ``SCORED`` (tokens without the separator),
``CUT`` (1 where it was cut) and ``CONTENT`` (two: the passage's content hash, so that a row of another history is never
taken for it). ``digests.json`` describes the three (``integrity``): they are read for it once, when they are written.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ....rag.errors import IndexFormatError
from ....rag.files import sync
from ....rag.nouns import Rows
from ...stores.changes import Contents
from ...stores.integrity import Files, describe_files, expect_whole, read_sealed, remember, sealed
from ..arrays import opening
from .layout import Bytes, Layout

Table = NDArray[np.int64]
Ids = NDArray[np.int32]

ROW, TOKENS, SCORED, CUT = range(4)
CONTENT = slice(4, 6)
_UNFINISHED = "new-"
_DATA = "data.bin"
DIGESTS = "digests.json"
_MEND = "run regard index --index DIR on this index: it computes these passages anew"


class Shard:
    """One committed shard, memory-mapped. ``table``: see the module."""

    def __init__(self, folder: Path, layout: Layout, table: Table, ids: Ids, data: Bytes) -> None:
        self.folder = folder
        self.table = table
        self._layout = layout
        self._starts = np.concatenate([[0], np.cumsum(table[:, TOKENS])])
        self._ids = ids
        self._data = data

    @classmethod
    def read(cls, folder: Path, layout: Layout) -> Self:
        """Raises ``IndexFormatError`` for a damaged one."""
        try:
            with opening:
                table = np.load(folder / "passages.npy", allow_pickle=False)
                ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
            # copy on write: torch takes no read-only memory
            data: Bytes = np.memmap(folder / _DATA, dtype=np.uint8, mode="c")
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(folder, str(error)) from None
        right = table.dtype == np.int64 and table.ndim == 2 and table.shape[1] == CONTENT.stop
        if not right or ids.dtype != np.int32 or ids.ndim != 1:
            raise _damaged(folder, f"arrays of {table.dtype} {table.shape} and {ids.dtype} {ids.shape}")
        tokens = int(table[:, TOKENS].sum())
        if (table[:, TOKENS] < 0).any() or len(ids) != tokens or len(data) != tokens * layout.token_bytes:
            raise _damaged(folder, f"{len(data)} bytes and {len(ids)} token ids for {tokens} tokens of "
                                   f"{layout.token_bytes} bytes")
        return cls(folder, layout, table, ids, data)

    @property
    def rows(self) -> Rows:
        return self.table[:, ROW]

    @property
    def contents(self) -> Contents:
        return self.table[:, CONTENT]

    @property
    def nbytes(self) -> int:
        return int(self._data.nbytes)

    def ids(self, passage: int) -> list[int]:
        """The tokens of the ``passage``-th passage, with its separator."""
        tokens: list[int] = self._ids[self._starts[passage]:self._starts[passage + 1]].tolist()
        return tokens

    def data(self, passage: int) -> Bytes:
        """Its keys and values."""
        size = self._layout.token_bytes
        return self._data[self._starts[passage] * size:self._starts[passage + 1] * size]


def write_shard(home: Path, name: str, table: Table, ids: Ids, ranges: Iterable[Bytes]) -> Path:
    """Commit a shard as ``home/name``; ``ranges`` are its passages' data. What fails or is killed leaves nothing of
    that name."""
    temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home))
    try:
        with (temporary / _DATA).open("wb") as file:
            for data in ranges:
                file.write(data.data)
            _to_disk(file)
        for part, array in (("ids.npy", ids), ("passages.npy", table)):
            with (temporary / part).open("wb") as file:
                np.save(file, array)
                _to_disk(file)
        files = describe_files(temporary, {})
        with (temporary / DIGESTS).open("w") as file:
            json.dump(sealed({"files": files}, DIGESTS), file)
            _to_disk(file)
        sync(temporary)
        temporary.rename(home / name)
        sync(home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    remember(home / name, files)
    return home / name


def shard_files(folder: Path) -> Files:
    """The description of a committed shard's files; nothing for one that is damaged."""
    described = read_sealed(folder / DIGESTS)
    files: Files = described["files"] if described else {}
    return files


def expect_whole_shard(folder: Path) -> None:
    """Raise ``IndexFormatError`` for a shard that is not as it was written."""
    files = shard_files(folder)
    if not files:
        raise _damaged(folder, f"{DIGESTS} is missing or damaged")
    expect_whole(folder, files, _MEND)


def shards_in(home: Path) -> list[Path]:
    """The folders of the committed shards in ``home``, in the order of their names."""
    return [folder for folder in sorted(home.glob("*/")) if not folder.name.startswith(_UNFINISHED)]


def clear_unfinished(home: Path) -> None:
    """Remove what a killed job left half written."""
    for folder in home.glob(f"{_UNFINISHED}*/"):
        shutil.rmtree(folder)


def _to_disk(file: Any) -> None:
    file.flush()
    sync(Path(file.name))


def _damaged(folder: Path, why: str) -> IndexFormatError:
    return IndexFormatError(f"stored keys and values cannot be read: {why}", where=str(folder),
                            hint=_MEND)
