"""Values that a run carries side by side."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T", covariant=True)


class Batch(tuple[T, ...]):
    """An immutable sequence of values, one a query; position ``i`` of every batch in a run belongs to query ``i``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Batch({list(self)!r})"
