"""A part: a thing with settings. Stages, policies, chunkers, encoders, views and stores are parts.

    class HNSW(ViewKind):
        card = Card("Malkov and Yashunin", 2018, arxiv="1603.09320")
        m: Count = 32
        ef_search: Count = 128

    HNSW(48)  ==  HNSW(m=48)  ==  part(ViewKind, "hnsw:m=48")  ==  part(ViewKind, {"part": "HNSW", "m": 48})

A part is a value: its settings are its annotated fields, checked when it is made and never set afterwards; what it opens belongs to a
run's ``Scope``. The first setting may be given by position.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform, get_type_hints, overload

from ..errors import ConfigError
from ..tables import Table, table
from .card import Card
from .identity import fingerprint, identity

P = TypeVar("P", bound="Part")
T = TypeVar("T")
KIND = "x-kind"
_RESERVED = ("part", "inputs")  # of files: the part's name, and what a stage is connected to


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Part:
    """Base of all parts. A kind of parts (``Stage``, ``Policy``) names its table's ``group``; a class below it is one of that kind."""

    group: ClassVar[str] = ""
    """The entry-point group of the kind's table (``rag.tables``)."""

    card: ClassVar[Card | None] = None
    """The publication, for a published method."""

    version: ClassVar[int] = 1
    """Raise it when the same settings and inputs give another output: it is in the fingerprint."""

    positional: ClassVar[str] = ""
    """The setting that may be given by position; empty: the one that is declared first."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            raise ConfigError(f"{cls.__qualname__} has a constructor of its own", where=f"{cls.__module__}.{cls.__qualname__}",
                              hint="declare its settings as fields (k: int = 10); check what belongs together in __post_init__")
        typed = vars(cls).get("__annotations__", {})
        for name, kind in typed.items():
            default = vars(cls).get(name)
            # no two parts share it: it is frozen
            if isinstance(default, dict | list | set) and "ClassVar" not in str(kind):
                setattr(cls, name, dataclasses.field(default_factory=functools.partial(frozen, default)))
        inherited = [name for name in cls.setting_names() if name in vars(cls) and name not in typed]
        if inherited:
            raise ConfigError(f"{cls.__qualname__} sets {inherited[0]!r} without its type", where=f"{cls.__module__}.{cls.__qualname__}",
                              hint=f"it is a setting of a base class: write {inherited[0]}: TYPE = {vars(cls)[inherited[0]]!r:.80}")
        described = cls.__doc__
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
        cls.__doc__ = described  # not the signature that dataclass writes where there is none
        taken = [name for name in cls.setting_names() if name in _RESERVED or hasattr(Part, name)]
        if taken:
            raise ConfigError(f"{cls.__qualname__} cannot have a setting {taken[0]!r}", where=f"{cls.__module__}.{cls.__qualname__}",
                              hint="files and parts use this word themselves: choose another")
        cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]  # what inspect and editors show

    def __init__(self, /, *first: Any, **settings: Any) -> None:
        """Raises ``ConfigError`` that names the setting that is unknown, missing, or has a value of another type."""
        for name, value in _checked(type(self), first, settings).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    # -- what a part may override --------------------------------------------------

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for settings that contradict each other."""

    def identity(self) -> Any:
        """What besides the settings decides what it does (a weights hash, an index's version), as JSON; loads no model."""
        return None

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The part of this kind that ``text`` names; a kind may understand other texts too, such as a model's name."""
        from .spec import parse

        return parse(cls, text)

    # -- what every part has -------------------------------------------------------

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
        """In the order of their declaration, those of base classes first; but the one that may be given by position before all."""
        names: list[str] = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        return sorted(names, key=lambda name: name != cls.positional)

    def settings(self) -> dict[str, Any]:
        """The settings by name, as they are."""
        return {name: getattr(self, name) for name in self.setting_names()}

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        cls = type(self)
        return {name: value for name, value in self.settings().items() if not _has_default(cls, name) or _default(cls, name) != value}

    def replace(self, /, **settings: Any) -> Self:
        """Another part with these settings changed."""
        return type(self)(**{**self.settings(), **settings})

    def fingerprint(self) -> str:
        """A hash of everything that decides what it does, apart from its input, as things stand now."""
        return fingerprint(self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(f"{name} cannot be set: a {type(self).__name__} is a value", where=type(self).__name__,
                          hint=f"make another, part.replace({name}={value!r:.80}); what is opened belongs to the scope")

    def __delattr__(self, name: str) -> None:
        raise ConfigError(f"{name} cannot be deleted: a {type(self).__name__} is a value", where=type(self).__name__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.settings() == other.settings()

    def __hash__(self) -> int:
        return hash((type(self), _hashable(self.settings())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), {name: thawed(value) for name, value in self.settings().items()})

    # -- as a setting of another part ----------------------------------------------

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(functools.partial(part, cls))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        return {KIND: cls}  # `schema` puts a reference there


def part(kind: type[P], value: Any) -> P:
    """``value`` as a part of ``kind``: one as it is, a text (``"hnsw:m=48"``), or a mapping as files hold it.

    Raises ``ConfigError`` for anything else.
    """
    from .spec import from_plain

    if isinstance(value, kind):
        return value
    try:
        if isinstance(value, str):
            return kind.from_text(value)
        if isinstance(value, Mapping):
            made = from_plain(value, kind)
            if isinstance(made, kind):
                return made
            value = made
    except RecursionError:
        raise ConfigError(f"a {kind.__name__} within too many others", where=kind.__name__, hint="nest fewer") from None
    hint = f"call it: {value.__name__}(...)" if isinstance(value, type) else f"give a {kind.__name__}, or the text that names one"
    raise ConfigError(f"{value!r:.80} is no {kind.__name__}", where=kind.__name__, hint=hint)


@overload
def register(cls: type[P], *, name: str | None = None) -> type[P]: ...


@overload
def register(cls: None = None, *, name: str | None = None) -> Callable[[type[P]], type[P]]: ...


def register(cls: type[P] | None = None, *, name: str | None = None) -> Any:
    """Make a part's class usable by name as long as this process lives: a decorator, ``@register`` or ``@register(name="Shout")``.

    A class that a distribution brings is listed in its table instead (``rag.tables``). Raises ``ConfigError`` for a name that is taken.
    """
    if cls is None:
        return functools.partial(register, name=name)
    if not (isinstance(cls, type) and issubclass(cls, Part) and cls.group):
        raise ConfigError(f"{cls!r:.80} is no part of a kind that has a table", where="register", hint="register a subclass of Stage, ...")
    name = name or cls.__name__
    if set(name) & set(':,()= \t\n"'):
        raise ConfigError(f"{name!r:.80} is no name of a part", where=cls.group, hint="leave out spaces and the signs : , ( ) = \"")
    cls.table().register(name, cls)
    return cls


def nested(value: Any, path: str = "") -> Iterator[tuple[str, Part]]:
    """Every part in ``value`` (a part, or what its settings hold), with its path (``policy``, ``body.bm25``), outer ones first. What has
    ``stages()`` by name (a plan of stages) is walked through, too."""
    if isinstance(value, Part):
        yield path, value
        inside: Any = value.settings()
    elif hasattr(value, "stages"):
        inside = value.stages()
    else:
        inside = value
    if isinstance(inside, Mapping):
        for name, item in inside.items():
            yield from nested(item, f"{path}.{name}" if path else str(name))
    elif isinstance(inside, tuple | list):
        for i, item in enumerate(inside):
            yield from nested(item, f"{path}.{i}" if path else str(i))


def _per_class(function: Callable[[type[Part]], T]) -> Callable[[type[Part]], T]:
    """``functools.cache``, which type checkers let take a class of its own hash."""
    return cast(Callable[[type[Part]], T], functools.cache(function))


# -- making one -----------------------------------------------------------------------


def _checked(cls: type[Part], first: tuple[Any, ...], settings: Mapping[str, Any]) -> dict[str, Any]:
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
        elif _has_default(cls, name):
            values[name] = _default(cls, name)
        else:
            problems.append(f"{name}: it must be given")
    if problems:
        known = (f"{p.name}={p.default!r:.40}" if p.default is not p.empty else p.name for p in _signature(cls).parameters.values())
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
def adapters(cls: type[Part]) -> dict[str, Any]:
    """A pydantic ``TypeAdapter`` for each setting."""
    from pydantic import ConfigDict, TypeAdapter  # at first use: importing it takes a tenth of a second

    hints: dict[str, Any] = {}
    try:
        for base in reversed(cls.__mro__):
            wanted = {name: kind for name, kind in vars(base).get("__annotations__", {}).items() if name in cls.setting_names()}
            module = sys.modules.get(base.__module__)
            hints |= get_type_hints(SimpleNamespace(__annotations__=wanted), vars(module) if module else None, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"the settings' types cannot be read: {error}", where=f"{cls.__module__}.{cls.__qualname__}",
                          hint="import what they name at the top of the module, not under TYPE_CHECKING") from None
    return {name: _adapter(TypeAdapter, hints[name], ConfigDict(arbitrary_types_allowed=True)) for name in cls.setting_names()}


def _adapter(make: Any, hint: Any, config: Any) -> Any:
    from pydantic.errors import PydanticUserError

    try:
        return make(hint, config=config)
    except PydanticUserError:  # a type with a configuration of its own
        return make(hint)


def _has_default(cls: type[Part], name: str) -> bool:
    field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]  # every subclass is a dataclass
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(cls: type[Part], name: str) -> Any:
    """A setting's default, checked like what is given: ``encoder: Encoder = "minilm"`` is an encoder."""
    kept = _defaults(cls)
    if name not in kept:
        field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]  # every subclass is a dataclass
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        kept[name] = frozen(adapters(cls)[name].validate_python(default))
    return kept[name]


@_per_class
def _defaults(cls: type[Part]) -> dict[str, Any]:
    """The defaults that were asked for so far."""
    return {}


def _signature(cls: type[Part]) -> inspect.Signature:
    parameters = []
    for i, name in enumerate(cls.setting_names()):
        field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]  # every subclass is a dataclass
        default = inspect.Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = thawed(field.default_factory())
        kind = inspect.Parameter.KEYWORD_ONLY if i else inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=field.type))
    return inspect.Signature(parameters)


def frozen(value: Any) -> Any:
    """``value`` with tuples for lists, read-only mappings for dictionaries and frozen sets for sets."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return tuple(frozen(item) for item in value)
    if type(value) is dict:
        return MappingProxyType({name: frozen(item) for name, item in value.items()})
    return frozenset(value) if type(value) is set else value


def _hashable(value: Any) -> Any:
    """Equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(item)) for name, item in value.items())
    if isinstance(value, tuple):
        return tuple(_hashable(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return type(value)
    return value


def thawed(value: Any) -> Any:
    if isinstance(value, MappingProxyType):
        return {name: thawed(item) for name, item in value.items()}
    return tuple(thawed(item) for item in value) if type(value) is tuple else value


def _remade(cls: type[P], settings: dict[str, Any]) -> P:
    return cls(**settings)


__all__ = ["Part", "adapters", "frozen", "identity", "nested", "part", "register"]
