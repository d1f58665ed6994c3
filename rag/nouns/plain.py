"""Nouns as plain JSON values, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Self

from ..errors import ConfigError, QueryError, StageError

UNLESS_EMPTY = {"unless_empty": True}
"""A field's ``metadata``: JSON leaves it out while it is empty, so that what was hashed or stored before the field was
there stays as it was."""

_DAMAGES = (AttributeError, IndexError, KeyError, OverflowError, QueryError, StageError, TypeError, ValueError)
_EXPECTED: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "bool": (bool,), "float": (int, float), "float | None": (int, float, type(None)),
    "str | None": (str, type(None)), "Metadata": (Mapping,),
}


def as_json(value: Any) -> Any:
    """``value`` with every noun in it as its ``to_dict`` and every mapping as a dict; other values are handed on."""
    if is_dataclass(value) and not isinstance(value, type):
        held = {field: getattr(value, field.name) for field in fields(value)}
        return {f.name: as_json(item) for f, item in held.items() if item or not f.metadata.get("unless_empty")}
    if isinstance(value, Mapping):
        return {name: as_json(item) for name, item in value.items()}
    return type(value)(map(as_json, value)) if type(value) in (list, tuple) else value


@contextmanager
def parsed(kind: type, data: object) -> Iterator[None]:
    """Whatever ``data`` lacks, or holds of another type, is a ``ConfigError``."""
    try:
        yield
    except _DAMAGES as error:
        raise ConfigError(f"this is no {kind.__name__}: {error!r:.120}", where=f"{data!r:.80}",
                          hint="give what to_dict gave") from error


class PlainNoun:
    """``to_dict`` and ``from_dict`` of a dataclass that holds plain values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = as_json(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ``ConfigError`` for what :meth:`to_dict` did not give; so does every noun's."""
        with parsed(cls, data):
            for field in fields(cls):  # type: ignore[arg-type]  # every subclass is a dataclass
                if field.name in data and not isinstance(data[field.name], _EXPECTED.get(str(field.type), object)):
                    raise TypeError(f"{field.name} is a {type(data[field.name]).__name__}")
            return cls(**data)
