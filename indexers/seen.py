"""Which documents an index holds, in 32 bytes each however long their ids are, so that a job's memory does not grow with its corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_MERGE_AT = 8192


class SeenDocuments:
    """A map from document id to document hash (both 16 bytes): a sorted array, and a small dict of what came last."""

    def __init__(self) -> None:
        self._keys: NDArray[np.bytes_] = np.empty(0, dtype="S16")
        self._values: NDArray[np.void] = np.empty(0, dtype="V16")
        self._recent: dict[bytes, bytes] = {}

    def get(self, document_id: str) -> bytes | None:
        """The document's hash, or None when it was not seen."""
        key = _key(document_id)
        if key in self._recent:
            return self._recent[key]
        slot = int(np.searchsorted(self._keys, np.bytes_(key)))
        return self._values[slot].tobytes() if slot < len(self._keys) and self._keys[slot] == key else None

    def add(self, documents: Iterable[tuple[str, bytes]]) -> None:
        """Remember documents; a later hash replaces an earlier one."""
        for document_id, value in documents:
            self._recent[_key(document_id)] = value
            if len(self._recent) >= _MERGE_AT:
                self._merge()

    def _merge(self) -> None:
        keys = np.frombuffer(b"".join(self._recent), dtype="S16")
        values = np.frombuffer(b"".join(self._recent.values()), dtype="V16")
        # the newest first: unique keeps the first of equals
        self._keys, first = np.unique(np.concatenate([keys, self._keys]), return_index=True)
        self._values = np.concatenate([values, self._values])[first]
        self._recent.clear()


def _key(document_id: str) -> bytes:
    """16 bytes, none of them the last a zero: numpy's byte strings drop trailing zeros when they compare."""
    return hashlib.blake2b(document_id.encode(), digest_size=15).digest() + b"\x01"
