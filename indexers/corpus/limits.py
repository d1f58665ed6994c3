"""How much is read of what others wrote. What goes over a limit is a counted skip whose reason names the limit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...rag.errors import ConfigError
from ...rag.nouns import Document
from .skips import Unreadable

_UNITS = {"k": 10 ** 3, "M": 10 ** 6, "G": 10 ** 9, "T": 10 ** 12}


class OverLimit(Unreadable):
    """A document goes over one of the :class:`Limits`."""

    def __init__(self, what: str, name: str, limit: int) -> None:
        super().__init__(f"{what}, over the limit {name}={limit} (--limit {name}=N or Limits({name}=N) sets another)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on what is read, each a whole number of at least 1. Beside what an idle process holds, a job's reading
    takes about 1 GB at most with the defaults, and its parser process ``memory_bytes``.

    ``record_bytes``: one line, TREC document or table row. ``file_bytes``: one file that is a document; of text not
    more than ``document_characters`` can take. ``decompressed_bytes`` and ``decompressed_ratio``: a compressed file as
    a whole, and how many times its compressed size (looked at from 64 MB on). ``document_characters``: one document's
    text. ``stored_characters``: its passages together, with the title and metadata that each one repeats.
    ``passage_characters``: one passage; a longer one is cut, except by the chunker ``whole``. ``metadata_depth``:
    objects and lists inside each other. ``id_characters``: one id. ``seconds`` (of processor time) and
    ``memory_bytes``: parsing one PDF, or one long HTML or Markdown file; a pipe's writer is waited for so long, too.

    ``outside_links`` True follows links in a folder that lead out of it.
    """

    record_bytes: int = 16_000_000
    file_bytes: int = 256_000_000
    decompressed_bytes: int = 1_000_000_000_000
    decompressed_ratio: int = 200
    document_characters: int = 16_000_000
    stored_characters: int = 64_000_000
    passage_characters: int = 1_000_000
    metadata_depth: int = 32
    id_characters: int = 4096
    seconds: int = 120
    memory_bytes: int = 1_000_000_000
    outside_links: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError``."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "outside_links":
                if not isinstance(value, bool):
                    raise ConfigError(f"outside_links is {value!r}", where="limits", hint="it is True or False")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"the limit {field.name} is {value!r}", where="limits",
                                  hint="a limit is a whole number, at least 1")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Limits:
        """From ``name=value``, as the command line gives them: ``record_bytes=64M``, ``outside_links=true``. Raises
        ``ConfigError``."""
        return cls(**dict(_setting(text) for text in settings))

    @classmethod
    def described(cls) -> str:
        """Every limit with its default, as the command line spells them."""
        return ", ".join(f"{field.name}={_spelled(field.default)}" for field in fields(cls))

    def settings(self) -> list[str]:
        """``name=value`` of each limit that is not the default, for :meth:`parse`."""
        changed = {field.name: getattr(self, field.name) for field in fields(self)
                   if getattr(self, field.name) != field.default}
        return [f"{name}={_spelled(value)}" for name, value in changed.items()]

    def over(self, what: str, name: str) -> OverLimit:
        """The error for ``what`` goes over the limit ``name``."""
        return OverLimit(what, name, getattr(self, name))

    def checked(self, document: Document) -> Document:
        """``document`` itself. Raises ``Unreadable`` where its parts are not what a document's are, or go over a
        limit."""
        self._check_id(document.id)
        if not isinstance(document.text, str) or not isinstance(document.title, str):
            raise Unreadable("the text or the title is not a string")
        if len(document.text) > self.document_characters:
            raise self.over(f"a text of {len(document.text):,} characters", "document_characters")
        self.repeated_characters(document)
        return document

    def repeated_characters(self, document: Document) -> int:
        """How many characters each passage of ``document`` repeats: its title and, roughly, its metadata.

        Raises ``Unreadable`` for metadata that JSON cannot say (a key that is no string, NaN), or that goes over a
        limit.
        """
        if not isinstance(document.metadata, Mapping):
            raise Unreadable("the metadata is not a mapping")
        size = len(document.title)
        todo: list[tuple[Any, int]] = [(document.metadata, 1)]
        while todo:  # depth first, so that a cycle ends at the depth limit
            value, depth = todo.pop()
            size += len(value) if isinstance(value, str) else 1
            if isinstance(value, Mapping | list | tuple):
                if depth > self.metadata_depth:
                    raise self.over(f"metadata nested {depth} deep", "metadata_depth")
                if isinstance(value, Mapping):
                    size += _keys(value)
                    value = value.values()
                todo.extend((item, depth + 1) for item in value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise Unreadable(f"the metadata holds {value}, which JSON cannot say")
            if size > self.stored_characters:
                raise self.over(f"title and metadata of more than {size:,} characters", "stored_characters")
        return size

    def _check_id(self, name: Any) -> None:
        if not isinstance(name, str) or not name:
            raise Unreadable("the id is empty" if name == "" else "the id is not a string")
        if "\0" in name:
            raise Unreadable("the id has a NUL character")
        if len(name) > self.id_characters:
            raise self.over(f"an id of {len(name):,} characters", "id_characters")


def as_limits(limits: Limits | Iterable[str]) -> Limits:
    """Limits, or what :meth:`Limits.parse` takes."""
    return limits if isinstance(limits, Limits) else Limits.parse(limits)


def _keys(value: Mapping[Any, Any]) -> int:
    """How long its keys are together."""
    if not all(isinstance(key, str) for key in value):
        raise Unreadable("a key of the metadata is not a string")
    return sum(map(len, value))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    default = {field.name: field.default for field in fields(Limits)}.get(name)
    if not equals or default is None:
        raise ConfigError(f"{text!r} sets no limit", where="--limit",
                          hint=f"write NAME=VALUE; limits: {Limits.described()}")
    if isinstance(default, bool):
        return name, {"true": True, "false": False}.get(value.lower(), value)
    number, unit = (value[:-1], _UNITS[value[-1]]) if value[-1:] in _UNITS else (value, 1)
    return name, int(number) * unit if number.isascii() and number.isdigit() and len(number) < 16 else value


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    unit = next((unit for unit, size in reversed(_UNITS.items()) if value % size == 0), "")
    return f"{value // _UNITS.get(unit, 1)}{unit}"
