"""What a value is, as JSON: the part of a fingerprint that a setting, a filter or an input contributes.

Plain values stand for themselves. Anything else carries the name of its class, so that a subclass is never taken for
its parent and ``np.int64(3)`` never for ``"3"``, and then what it is made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import itemgetter
from pathlib import PurePath
from types import CodeType, FunctionType
from typing import Any, get_args, get_origin

from ..errors import ConfigError


def identity(value: Any) -> Any:
    """``value`` as plain JSON that differs wherever the value does. Raises ``ConfigError`` for one that has no
    identity: a function that has closed over variables, an object of a class that Regard knows nothing of."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if type(value) in (list, tuple):
        return [identity(item) for item in value]
    if isinstance(value, Mapping) and "class" not in value and all(type(name) is str for name in value):
        return {name: identity(item) for name, item in value.items()}
    if hasattr(type(value), "part_name"):
        return {"part": type(value).part_name(), "fingerprint": value.fingerprint()}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", "value": _content(value)}


def fingerprint(part: Any) -> str:
    """A hash of a part: its kind and registered name, its version, all of its settings (also those that should not
    matter, such as ``device``: floats differ in the last digits with it), and what besides them decides
    (``Part.identity``)."""
    settings = {name: identity(value) for name, value in part.settings().items()}
    return hashed([part.group, part.part_name(), part.version, settings, identity(part.identity())])


def hashed(content: Any) -> str:
    """16 bytes in hexadecimal that change whenever ``content``, plain JSON values, does."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def same_key(value: Any) -> str:
    """``identity`` as text, equal for equal values: the key of what is kept or grouped by them."""
    return json.dumps(identity(value), sort_keys=True)


def _content(value: Any) -> Any:
    if get_origin(value) is not None:  # list[str], Query | Answer
        return [repr(get_origin(value)), identity(get_args(value))]
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if hasattr(value, "fingerprint"):  # an encoder, or a stage
        found = value.fingerprint
        return identity(found() if callable(found) else found)
    if hasattr(type(value),
               "model_fields"):  # a pydantic model: its own fields, whatever class the setting was declared with
        return {name: identity(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value):
        return {field.name: identity(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return sorted(([same_key(name), identity(item)] for name, item in value.items()), key=itemgetter(0))
    if isinstance(value, Set):
        return sorted(same_key(item) for item in value)
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes") and not value.dtype.hasobject:
        return [str(value.dtype), list(value.shape), hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()]
    if isinstance(value, int | float | str | bytes) or type(value).__module__ in ("datetime", "decimal", "uuid"):
        return repr(value)
    if isinstance(value, FunctionType) and not value.__closure__:
        return [f"{value.__module__}:{value.__qualname__}", _code(value.__code__), identity(value.__defaults__)]
    raise ConfigError(f"a value of class {type(value).__qualname__} has no identity: {value!r:.80}",
                      where="fingerprint",
                      hint="use plain values, pydantic models or dataclasses, or give the class a method fingerprint()")


def _code(code: CodeType) -> Any:
    """What a function does, as long as the Python that compiled it stays the same."""
    constants = [_code(constant) if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return [hashlib.blake2b(code.co_code, digest_size=16).hexdigest(), constants, list(code.co_names)]
