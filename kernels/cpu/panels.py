"""Queries packed for :func:`blocks.multiply`: side by side in the lanes of a vector, a component after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import LANES, ROWS, VNNI, WIDTHS

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Panels:
    """``data`` [panels, steps, lanes] float32 or int32 (four signed bytes); ``start`` [panels, lanes] what sums start
    from.

    A single query in bytes is laid out as its rows are, [1, steps, LANES], and ``start`` is [1, 1].
    """

    data: Array
    start: Array

    @property
    def lanes(self) -> int:
        return int(self.start.shape[1])

    def block(self, components: int) -> tuple[Array, Array]:
        """Scratch arrays of one thread: decoded rows, and their products."""
        whole = self.data.dtype == np.int32
        rows = np.zeros((ROWS, self.data[0].size * 4 // self.lanes if whole else components),
                        np.uint8 if whole else np.float32)
        return rows, np.zeros((ROWS, self.lanes), self.data.dtype)


def float_panels(queries: NDArray[np.float32]) -> Panels:
    """``queries`` float32 [n, d], n >= 1."""
    lanes = _lanes(len(queries))
    count = -(-len(queries) // lanes)
    padded = np.zeros((count * lanes, queries.shape[1]), np.float32)
    padded[:len(queries)] = queries
    data = np.ascontiguousarray(padded.reshape(count, lanes, -1).transpose(0, 2, 1))
    return Panels(data, np.zeros((count, lanes), np.float32))


def code_panels(queries: NDArray[np.int8], components: int) -> Panels:
    """Queries as whole numbers in -127..127, int8 [n, d], for rows of codes with ``components`` >= d of them (the
    others count nothing).

    The instruction multiplies unsigned by signed bytes, so that a row's codes are decoded with 128 added; the sums
    start from -128 times the query's sum.
    """
    alone = VNNI and len(queries) == 1
    together = 4 * LANES if alone else 4
    padded = np.zeros((len(queries), -(-components // together) * together), np.int8)
    padded[:, :queries.shape[1]] = queries
    if not VNNI:
        return float_panels(padded[:, :components].astype(np.float32))
    if alone:
        return Panels(padded.view(np.int32).reshape(1, -1, LANES), -128 * padded.sum(axis=1, dtype=np.int32)[None])
    lanes = _lanes(len(padded))
    count = -(-len(padded) // lanes)
    packed = np.zeros((count * lanes, padded.shape[1] // 4), np.int32)
    packed[:len(padded)] = padded.view(np.int32)
    start = np.zeros(count * lanes, np.int32)
    start[:len(padded)] = -128 * padded.sum(axis=1, dtype=np.int32)
    return Panels(np.ascontiguousarray(packed.reshape(count, lanes, -1).transpose(0, 2, 1)),
                  start.reshape(count, lanes))


def _lanes(queries: int) -> int:
    """The widest panels (most work for each load of a row) that leave no half of the last one empty."""
    fitting = [width for width in WIDTHS if (-queries) % (width * LANES) < max(1, width // 2) * LANES]
    return max(fitting) * LANES
