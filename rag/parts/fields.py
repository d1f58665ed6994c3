"""Annotated class fields as settings: their names, types and defaults, checked when a part is made."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Self, TypeVar, cast, get_type_hints

from ..errors import ConfigError
from ..tables import Table, table

T = TypeVar("T")
KIND = "x-kind"


class Fields:
    """The settings of a ``Part``, by name."""

    group: ClassVar[str] = ""
    """The entry-point group of the kind's table (``rag.tables``)."""

    positional: ClassVar[str] = ""
    """The setting that may be given by position; empty: the one that is declared first."""

    def __init__(self, /, *first: Any, **settings: Any) -> None:
        """Raises ``ConfigError`` that names the setting that is unknown, missing, or has a value of another type."""
        for name, value in _checked(type(self), first, settings).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for settings that contradict each other."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """See ``Part.from_text``."""
        raise NotImplementedError(f"{cls.__name__} has no `from_text`")

    @classmethod
    def table(cls) -> Table:
        """Where parts of this kind are registered."""
        return table(cls.group)

    @classmethod
    def part_name(cls) -> str:
        """The name that files use: the registered one, else the class's import place."""
        return cls.table().name_of(cls) or f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def setting_names(cls) -> list[str]:
        """In the order of their declaration, those of base classes first; but the one that may be given by position
        before all."""
        names: list[str] = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        return sorted(names, key=lambda name: name != cls.positional)

    def settings(self) -> dict[str, Any]:
        """The settings by name, as they are."""
        return {name: getattr(self, name) for name in self.setting_names()}

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        cls = type(self)
        return {name: value for name, value in self.settings().items() if _default(cls, name) != value}


def _per_class(function: Callable[[type[Fields]], T]) -> Callable[[type[Fields]], T]:
    """``functools.cache``, which type checkers let take a class of its own hash."""
    return cast(Callable[[type[Fields]], T], functools.cache(function))


def _checked(cls: type[Fields], first: tuple[Any, ...], settings: Mapping[str, Any]) -> dict[str, Any]:
    names = cls.setting_names()
    given = {**dict(zip(names, first, strict=False)), **settings}
    problems = [f"{name}: there is no such setting{_near(name, names)}" for name in settings if name not in names]
    if len(first) > min(1, len(names)):
        problems.append("only the first setting may be given by position")
    if first and names and names[0] in settings:
        problems.append(f"{names[0]}: it was given twice")
    values = {}
    for name in names:
        if name in given:
            try:
                values[name] = frozen(adapters(cls)[name].validate_python(given[name]))
            except ValueError as error:  # pydantic's
                problems.append(_said(name, error))
        elif (default := _default(cls, name)) is not dataclasses.MISSING:
            values[name] = default
        else:
            problems.append(f"{name}: it must be given")
    if problems:
        known = [p.name if p.default is p.empty else f"{p.name}={p.default!r:.40}"
                 for p in signature(cls).parameters.values()]
        raise ConfigError(f"{cls.__name__} cannot be made: {'; '.join(problems)}", where=cls.__name__,
                          hint=f"settings: {', '.join(known) or 'none'}")
    return values


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _said(name: str, error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return f"{name}: {error}"
    return "; ".join(f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in errors(include_url=False))


@_per_class
def adapters(cls: type[Fields]) -> dict[str, Any]:
    """A pydantic ``TypeAdapter`` for each setting."""
    from pydantic import ConfigDict, TypeAdapter  # at first use: importing it takes a tenth of a second

    hints, names, config = dict[str, Any](), cls.setting_names(), ConfigDict(arbitrary_types_allowed=True)
    try:
        for base in reversed(cls.__mro__):
            typed = vars(base).get("__annotations__", {})
            wanted = SimpleNamespace(__annotations__={name: typed[name] for name in typed if name in names})
            module = sys.modules.get(base.__module__)
            hints |= get_type_hints(wanted, vars(module) if module else None, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"the settings' types cannot be read: {error}", where=f"{cls.__module__}.{cls.__qualname__}",
                          hint="import what they name at the top of the module, not under TYPE_CHECKING") from None
    return {name: _adapter(TypeAdapter, hints[name], config) for name in names}


def _adapter(make: Any, hint: Any, config: Any) -> Any:
    from pydantic.errors import PydanticUserError

    try:
        return make(hint, config=config)
    except PydanticUserError:  # a type with a configuration of its own
        return make(hint)


def _field(cls: type[Fields], name: str) -> dataclasses.Field[Any]:
    fields: dict[str, dataclasses.Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]  # a dataclass
    return fields[name]


def _declared(cls: type[Fields], name: str) -> Any:
    """A setting's default as it was written; ``MISSING`` where it has none."""
    field = _field(cls, name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _default(cls: type[Fields], name: str) -> Any:
    """A setting's default, checked like what is given: ``encoder: Encoder = "minilm"`` is an encoder."""
    kept = _defaults(cls)
    if name not in kept:
        default = _declared(cls, name)
        kept[name] = default if default is dataclasses.MISSING else frozen(adapters(cls)[name].validate_python(default))
    return kept[name]


@_per_class
def _defaults(cls: type[Fields]) -> dict[str, Any]:
    """The defaults that were asked for so far."""
    return {}


def signature(cls: type[Fields]) -> inspect.Signature:
    """A class's settings as inspect and editors show them."""
    parameters = []
    for i, name in enumerate(cls.setting_names()):
        default = _declared(cls, name)
        shown = inspect.Parameter.empty if default is dataclasses.MISSING else thawed(default)
        kind = inspect.Parameter.KEYWORD_ONLY if i else inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, kind, default=shown, annotation=_field(cls, name).type))
    return inspect.Signature(parameters)


def frozen(value: Any) -> Any:
    """``value`` with tuples for lists, read-only mappings for dictionaries and frozen sets for sets."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return tuple(frozen(item) for item in value)
    if type(value) is dict:
        return MappingProxyType({name: frozen(item) for name, item in value.items()})
    return frozenset(value) if type(value) is set else value


def thawed(value: Any) -> Any:
    """``value`` with plain dictionaries for the mappings that may not be changed."""
    if isinstance(value, MappingProxyType):
        return {name: thawed(item) for name, item in value.items()}
    return tuple(thawed(item) for item in value) if type(value) is tuple else value
