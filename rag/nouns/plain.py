"""Nouns as plain JSON values, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

from ..errors import ConfigError


@contextmanager
def reading(kind: type, data: object) -> Iterator[None]:
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"this is no {kind.__name__}: {error!r:.120}", where=f"{data!r:.80}", hint="give what to_dict gave") from error


class Flat:
    """``to_dict`` and ``from_dict`` of a dataclass that holds plain values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ``ConfigError`` for what :meth:`to_dict` did not give; so does every noun's."""
        with reading(cls, data):
            return cls(**data)
