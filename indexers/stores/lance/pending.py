"""Vectors on their way into the store: a Lance dataset of their own, valid for one encoder and one commit of the store.

It is made by a job that encodes what is already stored, and written after so many passages, so that a killed job goes
on where it stopped; one transaction of the store then adds them all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....rag.models.encoding import Vectors
from . import commits
from .store import KEY, commit_of, unchanged_since

PENDING = "pending"


class LancePending:
    """The vectors for the column ``name`` of the index at ``path``."""

    def __init__(self, path: Path, name: str, dataset: Any, fingerprint: Mapping[str, Any]) -> None:
        """``dataset``: the store's, as it is now."""
        import pyarrow as pa

        home = path / PENDING / f"{name}.lance"
        identity = {"fingerprint": fingerprint, "commit": commit_of(dataset, int(dataset.version))}
        mark = json.dumps(identity, sort_keys=True).encode()
        column = pa.field("vector", pa.list_(pa.float32(), int(fingerprint["dimension"])))
        self._schema = pa.schema([column], metadata={KEY: mark})
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


def discard_pending(path: Path) -> None:
    """Remove all vectors that are on their way into the index at ``path``."""
    shutil.rmtree(path / PENDING, ignore_errors=True)


def carry_pending(path: Path, dataset: Any) -> None:
    """Vectors on their way into the index stay those of its passages where these are the same; others are of no use to
    anybody."""
    import lance

    commit = commit_of(dataset, int(dataset.version))
    for home in (path / PENDING).glob("*.lance"):
        try:
            pending = lance.dataset(str(home))
            mark = json.loads((pending.schema.metadata or {})[KEY])
            of_these = unchanged_since(dataset, mark["commit"])
        except (ValueError, OSError, KeyError, TypeError):
            of_these = False
        if not of_these:
            shutil.rmtree(home)
        elif mark["commit"] != commit:
            pending.update_schema_metadata({KEY.decode(): json.dumps({**mark, "commit": commit}, sort_keys=True)})


def _opened(home: Path, mark: bytes) -> Any | None:
    """The dataset in ``home`` where it is there, whole, and has this mark."""
    import lance

    try:
        dataset = lance.dataset(str(home), session=commits.without_cache())
        return dataset if (dataset.schema.metadata or {}).get(KEY) == mark else None
    except (ValueError, OSError):
        return None
