"""Reading YAML and JSON that somebody else wrote: plain data of limited size and depth, in which no key stands
twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from .errors import ConfigError

MOST_YAML = 128 * 1024
"""Bytes of a YAML file: the default pipeline has 1,500."""
MOST_JSON = 32 * 1024 * 1024
"""Bytes of a JSON file: a head set of 80 layers of 64 heads, with its intervals, has 2 million."""
DEEPEST = 32
"""Levels of lists and mappings within each other."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises ``ConfigError``, with the line, for what :func:`parse_yaml` refuses."""
    return parse_yaml(read_text(path, MOST_YAML), str(path))


def read_text(path: Path, most: int) -> str:
    """A text file of at most ``most`` bytes, of which no more is read. Raises ``ConfigError`` for any other."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) <= most:
            return data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file cannot be read: {error}", where=str(path),
                          hint="check the path (regard init writes a pipeline); it must be UTF-8 text") from None
    raise ConfigError(f"the file has more than {most:,} bytes", where=str(path), hint="is it the right file?")


def parse_yaml(text: str, where: str, hint: str = "a file holds text, numbers, lists and mappings") -> Any:
    """Plain data. Raises ``ConfigError`` for what is no YAML, and for anchors, aliases and merge keys (which can make
    much of little), a key that stands twice, more than ``DEEPEST`` levels, and more than ``MOST_YAML`` bytes."""
    if len(text) > MOST_YAML or len(text.encode("utf-8", "surrogatepass")) > MOST_YAML:
        raise ConfigError(f"the file has more than {MOST_YAML:,} bytes", where=where, hint="is it the right file?")
    try:
        loader = _PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"this is not YAML as Regard reads it: {error}", where=where, hint=hint) from None
    # a date that is none, `!!bool maybe`
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"this is not YAML as Regard reads it: {error}", where=where, hint=hint) from None


def parse_json(text: str) -> Any:
    """Plain data. Raises ``ValueError`` for what is no JSON, a key that stands twice, and what is too deep."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return found


class _PlainLoader(yaml.SafeLoader):
    """The safe loader, which builds no objects, without what can grow."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # its stubs say nothing of it
        if getattr(event, "anchor", None) is not None:  # an alias has one too
            raise ComposerError(None, None, "anchors and aliases are not read: write it out", event.start_mark)
        if self._depth >= DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} levels", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, "merge keys are not read: write it out", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            try:
                twice = key in lines
            except TypeError:
                raise ConstructorError(None, None, "a key must be plain", key_node.start_mark) from None
            if twice:
                raise ConstructorError(None, None, f"the key {key!r} stands twice, first in line {lines[key]}",
                                                        key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)
