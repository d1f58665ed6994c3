"""How a Lance dataset is made and changed: what a version names is on the disk, and noted in the ledger of digests,
before the version is.

One process at a time may do this to a dataset: hold its lock.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ....rag.files import sync, sync_files, sync_tree
from .digests import LEDGER, Ledger

_ARROW = b"ARROW1"
_ROARING_WITH_RUNS = 12347


def create(folder: Path, schema: Any) -> Any:
    """An empty dataset in ``folder``, in the place of what lies there. It is made beside it and renamed: a creation
    that is killed leaves no dataset, and nothing in the way of the next one."""
    import lance

    temporary = folder.with_name(f"{folder.name}.new")
    for old in (temporary, folder):
        if old.exists():
            shutil.rmtree(old)
    lance.write_dataset(schema.empty_table(), str(temporary), schema=schema, session=without_cache())
    (temporary / LEDGER).touch()
    sync_tree(temporary)
    temporary.rename(folder)
    sync(folder.parent)
    return lance.dataset(str(folder), session=without_cache())


def append(dataset: Any, table: Any) -> Any:
    """The dataset with the rows of ``table`` at its end."""
    import lance

    fragments = lance.fragment.write_fragments(table, dataset, schema=dataset.schema)
    return commit(dataset, lance.LanceOperation.Append(fragments), fragments)


def replace(dataset: Any, table: Any, key: str, condition: str = "") -> Any:
    """The dataset with the rows of ``table``, each in the place of the one with the same ``key``, and without the other
    rows that meet ``condition`` (SQL), if any is given."""
    merge = dataset.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
    if condition:
        merge = merge.when_not_matched_by_source_delete(condition)
    transaction, _ = merge.execute_uncommitted(table)
    operation = transaction.operation
    return commit(dataset, operation, [*operation.updated_fragments, *operation.new_fragments])


def delete(dataset: Any, condition: str) -> Any:
    """The dataset without the rows that meet ``condition`` (SQL); the same version where there are none."""
    import lance

    addresses = dataset.scanner(columns=[], filter=condition, with_row_address=True).to_table()["_rowaddr"].to_numpy()
    left = {number: dataset.get_fragment(number).delete(condition) for number in np.unique(addresses >> 32).tolist()}
    if not left:
        return dataset
    kept = [fragment for fragment in left.values() if fragment is not None]
    emptied = [number for number, fragment in left.items() if fragment is None]
    return commit(dataset, lance.LanceOperation.Delete(kept, emptied, condition), kept)


def add_column(dataset: Any, field: Any, values: Iterator[Any]) -> Any:
    """The dataset with a column more: ``field`` of pyarrow with its metadata, ``values`` blocks of it in the dataset's
    order."""
    import lance
    import pyarrow as pa
    from lance.schema import LanceSchema

    one, cut = pa.schema([field]), _Cut(values)
    fragments, schema = [], LanceSchema.from_pyarrow(dataset.schema.append(field))
    for fragment in dataset.get_fragments():
        batches = (pa.record_batch([block], schema=one) for block in cut.next(fragment.count_rows()))
        merged, schema = fragment.merge_columns(pa.RecordBatchReader.from_batches(one, batches))
        fragments.append(merged)
    return commit(dataset, lance.LanceOperation.Merge(fragments, schema), fragments)


def compact(dataset: Any) -> Any:
    """The dataset with its small fragments, and those with deleted rows, written together, in the same order; the same
    version where there are none such."""
    import lance
    from lance.optimize import Compaction

    folder, options = Path(dataset.uri), {"materialize_deletions_threshold": 0.0}
    done = [task.execute(dataset) for task in Compaction.plan(dataset, options).tasks]
    if not done:
        return dataset
    new = [file for result in done for fragment in result.new_fragments
           for file in _new_files(dataset, folder, fragment)]
    Ledger(folder).note(new)
    sync_files([*new, folder / LEDGER])
    Compaction.commit(dataset, done, options)
    changed = lance.dataset(dataset.uri, session=without_cache())
    made_by = str(changed.read_transaction(changed.version).uuid)
    _note_commit(folder, changed.version, made_by, (folder / "_transactions").glob(f"*-{made_by}.txn"))
    return changed


def configure(dataset: Any, **settings: str) -> Any:
    """The dataset with these settings in its configuration."""
    import lance

    updates = lance.LanceOperation.UpdateMap(settings)
    return commit(dataset, lance.LanceOperation.UpdateConfig(config_updates=updates))


def commit(dataset: Any, operation: Any, fragments: Iterable[Any] = ()) -> Any:
    """The dataset after ``operation``, which is on ``fragments`` (``FragmentMetadata``): what of their files is new
    reaches the disk, and the ledger, before the version that names it."""
    import lance

    folder = Path(dataset.uri)
    new = [name for fragment in fragments for name in _new_files(dataset, folder, fragment)]
    if new:
        Ledger(folder).note(new)
        sync_files([*new, folder / LEDGER])
    transaction = lance.Transaction(dataset.version, operation)
    changed = lance.LanceDataset.commit(dataset, transaction)
    made_by = str(transaction.uuid)
    _note_commit(folder, changed.version, made_by, [folder / "_transactions" / f"{dataset.version}-{made_by}.txn"])
    return changed


def _note_commit(folder: Path, version: int, made_by: str, transactions: Iterable[Path]) -> None:
    """Have what describes the new version reach the disk and the ledger."""
    described = [manifest_file(folder, version), *transactions]
    Ledger(folder).note(described, commit=made_by)
    sync_files([*described, folder / LEDGER])


def without_cache() -> Any:
    """A writer reads no version twice; Lance would keep every one's manifest, which grows with the square of the
    commits."""
    import lance

    return lance.Session(metadata_cache_size_bytes=0)


def _new_files(dataset: Any, folder: Path, fragment: Any) -> list[Path]:
    """The files of a fragment that the dataset does not have yet. Raises ``OSError`` for one that is cut off: Lance
    does not always learn that the disk refused its last write to a file."""
    before = dataset.get_fragment(fragment.id)
    old = before.metadata if before else None
    sizes = {f"data/{file.path}": file.file_size_bytes for file in fragment.files}
    for file in old.files if old else ():
        sizes.pop(f"data/{file.path}", None)
    new = {folder / name: size for name, size in sizes.items()}
    deletions = fragment.deletion_file
    if deletions and not (old and old.deletion_file and old.deletion_file.id == deletions.id):
        file = folder / deletions.path(fragment.id)
        new[file] = deletions_size(file.read_bytes())
    for file, size in new.items():
        if file.stat().st_size != size:
            raise OSError(f"{file.name} has {file.stat().st_size} bytes instead of {size}: the disk refused the rest")
    return list(new)


def deletions_size(data: bytes) -> int:
    """How long a file of deletions should be by what it begins with: an Arrow file, or a Roaring bitmap in its portable
    format (github.com/RoaringBitmap/RoaringFormatSpec); -1 for one that does not get so far."""
    if data.startswith(_ARROW):
        return len(data) if data.endswith(_ARROW) and len(data) > 2 * len(_ARROW) else -1
    try:
        return _roaring_size(data)
    except struct.error:
        return -1


def _roaring_size(data: bytes) -> int:
    head, count = struct.unpack_from("<II", data)
    runs, at = b"", 8
    if head & 0xFFFF == _ROARING_WITH_RUNS:
        count = (head >> 16) + 1
        at = 4 + (int(count) + 7) // 8
        runs = data[4:at]
    sizes: list[int] = [struct.unpack_from("<H", data, at + 4 * i + 2)[0] + 1 for i in range(count)]
    at += 4 * len(sizes) * (1 if runs and count < 4 else 2)  # with their places, which few with runs among them lack
    for i, size in enumerate(sizes):
        if runs and runs[i // 8] >> i % 8 & 1:
            at += 2 + 4 * int(struct.unpack_from("<H", data, at)[0])
        else:
            at += 2 * size if size <= 4096 else 8192
    return int(at)


def manifest_file(folder: Path, version: int) -> Path:
    """Lance's newest first naming, or its older one."""
    newest_first = folder / "_versions" / f"{2 ** 64 - 1 - version}.manifest"
    return newest_first if newest_first.exists() else folder / "_versions" / f"{version}.manifest"


class _Cut:
    """A stream of arrays, cut anew."""

    def __init__(self, blocks: Iterator[Any]) -> None:
        self._blocks = blocks
        self._left: Any = ()

    def next(self, size: int) -> Iterator[Any]:
        """The next ``size`` values, in some blocks."""
        while size:
            block = self._left if len(self._left) else next(self._blocks)
            block, self._left = block[:size], block[size:]
            size -= len(block)
            yield block
