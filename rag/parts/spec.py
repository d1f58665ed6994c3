"""Parts as text and as plain JSON values: ``hnsw:m=48`` on a command line, ``{part: HNSW, m: 48}`` in a file.

The text is ``name``, or ``name:value,setting=value,...``: the value without a name is the first setting's. A value is
plain text, a number, ``true``, ``false``, ``null``, JSON (``["a","b"]``, ``"a, b"``), or another part's text in
parentheses: ``policy=(icr:window=20)``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Set
from difflib import get_close_matches
from enum import Enum
from pathlib import PurePath
from types import FunctionType
from typing import Any, TypeVar

from ..errors import ConfigError, RegardError
from ..tables import imported
from .fields import Fields, adapters
from .schema import kinds_of

P = TypeVar("P", bound=Fields)
_HEAD = re.compile(r"\s*([^:,()=]+?)\s*(?:[:,](.*))?", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_UNNAMED = re.compile(r"[^\s,()\[\]{}\"=][^,()\[\]{}\"=]*(?<!\s)")
_PLAIN = re.compile(r"[^\s,()\[\]{}\"=][^,()\[\]{}\"]*(?<!\s)")


# -- text -----------------------------------------------------------------------------


def parse(kind: type[P], text: str) -> P:
    """The part of ``kind`` that ``text`` names. Raises ``ConfigError`` that says what was wrong where."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r:.80} names no {kind.__name__}", where=kind.__name__,
                          hint=f"write one as {_forms(kind)}")
    cls: type[P] = named(kind, match[1])
    names, settings = cls.setting_names(), dict[str, Any]()
    for i, item in enumerate(_items(match[2] or "", text)):
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"\s*\w+\s*", name):
            name, value = (names[0], item) if not i and names else ("", item)
        name = name.strip()
        if name not in names:
            near = get_close_matches(name, names, n=1)
            wrong = f"has no setting {name!r}" if name else f"cannot take {item.strip()!r} without a setting's name"
            raise ConfigError(f"{cls.part_name()} {wrong}", where=f"{kind.__name__} {text!r:.80}",
                              hint=f"did you mean {near[0]}?" if near else f"settings: {', '.join(names) or 'none'}")
        if name in settings:
            raise ConfigError(f"the setting {name!r} is given twice", where=f"{kind.__name__} {text!r:.80}",
                              hint="give it once")
        if not value.strip():
            raise ConfigError(f"the setting {name!r} has no value", where=f"{kind.__name__} {text!r:.80}",
                              hint=f'write {name}=VALUE, and {name}="" for an empty text')
        settings[name] = _setting(cls, name, value.strip(), text)
    return cls(**settings)


def text_of(one: Fields, settings: Mapping[str, Any] | None = None) -> str:
    """The shortest text that :func:`parse` gives ``one`` back from, or that with these of its settings. Raises
    ``ConfigError`` for a class that is not registered: no text names it."""
    name, names = one.table().name_of(type(one)), one.setting_names()
    if name is None:
        raise ConfigError(f"no text names {one.part_name()}: it is not registered", where=one.group,
                          hint="list it in a table, or write @register above the class (from regard.rag.parts import "
                               "register)")
    items = [_shown(value) if setting == names[0] and _UNNAMED.fullmatch(_shown(value))
             else f"{setting}={_shown(value)}"
             for setting, value in (one.changed() if settings is None else settings).items()]
    return f"{name}:{','.join(items)}" if items else name


def named(kind: type[P], name: str) -> type[P]:
    """The class of this kind that is registered as ``name``. Raises ``ConfigError`` with the nearest names."""
    found = kind.table()[name]
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"what is registered as {name!r} is no {kind.__name__}: {found!r:.80}", where=kind.group,
                          hint="this is a fault of the distribution that brings it")
    if kind.table().name_of(found) is None:  # files would not find it again by this name
        raise ConfigError(f"{name!r} is listed at another place than where {found.__qualname__} is defined",
                          where=kind.group,
                          hint=f"this is a fault of the distribution that brings it: list "
                               f"{found.__module__}:{found.__qualname__}")
    return found


def _forms(kind: type[Fields]) -> str:
    return f"NAME or NAME:setting=value,...; names: {', '.join(kind.table().names())}"


def _items(text: str, whole: str) -> Iterator[str]:
    """Split at the commas outside parentheses, brackets and quotes."""
    depth, quoted, escaped, start = 0, False, False, 0
    for i, char in enumerate(text):
        if quoted and (escaped or char == "\\"):
            escaped = not escaped
        elif char == '"':
            quoted = not quoted
        elif not quoted and char in "([{":
            depth += 1
        elif not quoted and char in ")]}":
            depth -= 1
        elif char == "," and not quoted and not depth:
            yield text[start:i]
            start = i + 1
    if depth or quoted:
        raise ConfigError("a parenthesis or a quote is not closed", where=f"{whole!r:.80}", hint="close it")
    if text.strip():
        yield text[start:]


def _setting(cls: type[Fields], name: str, text: str, whole: str) -> Any:
    """``text`` as the value of a setting: as what it looks like where the setting takes that, else as text."""
    if text.startswith("(") and text.endswith(")"):
        kinds = kinds_of(cls, name)
        return kinds[0].from_text(text[1:-1]) if len(kinds) == 1 else text[1:-1]
    value = _value(text, whole)
    if value is not text and not isinstance(value, str):
        try:
            adapters(cls)[name].validate_python(value)
        except (ValueError, RegardError):
            return text
    return value


def _value(text: str, whole: str) -> Any:
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    if _NUMBER.fullmatch(text):
        return json.loads(text)
    if text[:1] in ('"', "[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{text!r:.80} is not JSON: {error}", where=f"{whole!r:.80}",
                              hint="leave the quotes and brackets out, or close them") from None
    return text


def _shown(value: Any) -> str:
    if isinstance(value, Fields):
        return f"({text_of(value)})"
    data = plain(value)
    if isinstance(data, str) and _PLAIN.fullmatch(data) and not isinstance(_value(data, data),
                                                                           bool | int | float | None):
        return data
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


# -- plain values -----------------------------------------------------------------------


def plain(value: Any) -> Any:
    """``value`` as files hold it: plain JSON values, a part as ``{"part": name, setting: ...}`` with all of its
    settings.

    Raises ``ConfigError`` for what no file can hold.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Fields):
        return {"part": place_of(value), **{name: plain(item) for name, item in value.settings().items()}}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Set):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, Enum):
        return plain(value.value)
    if hasattr(value, "to_plain"):  # a plan of stages
        return value.to_plain()
    if isinstance(value, FunctionType | type):
        return import_place(value)
    raise ConfigError(f"a file cannot hold a {type(value).__qualname__}: {value!r:.80}", where="parts",
                      hint="use plain values and registered parts")


def place_of(one: Fields) -> str:
    """The name that a file uses for the class of ``one``. Raises ``ConfigError`` for a class that no later process
    could find."""
    cls = type(one)
    name = cls.table().name_of(cls)
    if name is not None and cls.table().place_of(name) is not None:
        return name
    return import_place(cls)


def import_place(thing: Any) -> str:
    """``module:name`` of a class or a function. Raises ``ConfigError`` for one that cannot be imported from there
    again."""
    place = f"{thing.__module__}:{thing.__qualname__}"
    if thing.__module__ == "__main__":
        reason = "it was defined in a notebook or a script"
    elif "<" in thing.__qualname__:
        reason = "it was defined inside a function"
    else:
        try:
            if imported(place) is thing:
                return place
            reason = f"{place} is another thing now"
        except (ImportError, AttributeError) as error:
            reason = str(error)
    raise ConfigError(f"a file cannot name {thing.__qualname__}: {reason}", where=place,
                      hint="put it into a module that can be imported, and import it from there")


def from_plain(data: Mapping[str, Any], kind: type[Fields]) -> Fields:
    """The part that ``data``, as :func:`plain` gives it, describes. Nothing is imported on its word: a class by its
    import place must have been imported before. Raises ``ConfigError``."""
    # a file's keys may be numbers: no setting is called so
    settings = {str(name): value for name, value in data.items()}
    name = settings.pop("part", None)
    if not isinstance(name, str):
        raise ConfigError(f"this names no {kind.__name__}: {dict(data)!r:.80}", where=kind.__name__,
                          hint="write {part: NAME, setting: value}")
    cls = loaded(name, type) if ":" in name else named(kind, name)
    if not issubclass(cls, kind):
        raise ConfigError(f"{name} is no {kind.__name__}", where=kind.__name__,
                          hint=f"names: {', '.join(kind.table().names())}")
    return cls(**settings)


def loaded(place: str, wanted: type | None = None) -> Any:
    """What stands at ``module:name`` of a module that has been imported: a file loads no code. Raises
    ``ConfigError``."""
    module, _, _ = place.partition(":")
    if module not in sys.modules:
        raise ConfigError(f"the file names {place}, and {module} was not imported", where=place,
                          hint=f"a file never loads code: import {module} first, if you trust it, and load the file "
                               f"again")
    try:
        found = imported(place)
    except AttributeError as error:
        raise ConfigError(f"the file names {place}: {error}", where=place,
                          hint="it was renamed or moved: name where it is now") from None
    if wanted is not None and not isinstance(found, wanted):
        raise ConfigError(f"{place} is a {type(found).__name__}", where=place, hint="name a class of the right kind")
    return found
