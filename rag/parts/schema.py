"""JSON schemas of parts, made from the tables: editors complete and check pipeline files with them."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import RegardError
from .fields import KIND, Fields, adapters


def schema(kind: type[Fields]) -> dict[str, Any]:
    """The schema of any part of ``kind``, with those of all kinds that its parts may hold under ``$defs``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_reference(kind), "$defs": definitions(kind)}


def definitions(*kinds: type[Fields]) -> dict[str, Any]:
    """By group, what the parts of ``kinds`` and those within them look like: a text that names one, or a mapping."""
    found: dict[str, Any] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind.group not in found:
            held: list[type[Fields]] = []
            found[kind.group] = {"anyOf": [{"type": "string"}, _ELSEWHERE,
                                           *(of_class(cls, held) for cls in _classes(kind))]}
            waiting += held
    return found


def of_class(cls: type[Fields], held: list[type[Fields]] | None = None) -> dict[str, Any]:
    """A part of this very class, as a mapping; the kinds that it refers to are added to ``held``."""
    settings = {name: _referring(_shape(adapter), held if held is not None else [])
                for name, adapter in adapters(cls).items()}
    needed = [name for name, setting in inspect.signature(cls).parameters.items() if setting.default is setting.empty]
    return {"type": "object", "title": cls.part_name(), "description": (cls.__doc__ or "").strip().partition("\n")[0],
            "properties": {"part": {"const": cls.part_name()}, **settings}, "required": ["part", *needed],
            "additionalProperties": False}


def kinds_of(cls: type[Fields], setting: str) -> list[type[Fields]]:
    """The kinds of parts that a setting may hold."""
    held: list[type[Fields]] = []
    _referring(_shape(adapters(cls)[setting]), held)
    return list(dict.fromkeys(held))


def _shape(adapter: Any) -> Any:
    from pydantic.errors import PydanticInvalidForJsonSchema

    try:
        return adapter.json_schema()
    except PydanticInvalidForJsonSchema:  # a function, a class: files hold its import place
        return {}


_ELSEWHERE = {"type": "object", "title": "module:Class", "properties": {"part": {"type": "string", "pattern": ":"}},
              "required": ["part"]}
"""A part by its import place, whose settings no table tells."""


def _classes(kind: type[Fields]) -> list[type[Fields]]:
    """Those that can be imported."""
    found = []
    for name in kind.table():
        try:
            cls = kind.table()[name]
        except RegardError:
            continue
        if isinstance(cls, type) and issubclass(cls, kind):
            found.append(cls)
    return found


def _referring(data: Any, held: list[type[Fields]]) -> Any:
    """``data`` with references in the place of kinds."""
    if isinstance(data, list):
        return [_referring(item, held) for item in data]
    if not isinstance(data, dict):
        return data
    if KIND in data:
        held.append(data[KIND])
        return _reference(data[KIND])
    return {name: _referring(item, held) for name, item in data.items()}


def _reference(kind: type[Fields]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{kind.group}"}
