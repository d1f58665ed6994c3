"""A part: a thing with settings. Stages, policies, chunkers, encoders, views and stores are parts.

    class HNSW(ViewKind):
        card = Card("Malkov and Yashunin", 2018, arxiv="1603.09320")
        m: Count = 32
        ef_search: Count = 128

    HNSW(48)  ==  HNSW(m=48)  ==  part(ViewKind, "hnsw:m=48")  ==  part(ViewKind, {"part": "HNSW", "m": 48})

A part is a value: its settings are its annotated fields, checked when it is made and never set afterwards; what it
opens belongs to a run's ``Scope``. The first setting may be given by position.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform, overload

from ..errors import ConfigError
from .card import Card
from .fields import KIND, Fields, frozen, signature, thawed
from .identity import fingerprint
from .spec import from_plain, parse

P = TypeVar("P", bound="Part")
_RESERVED = ("part", "inputs")  # of files: the part's name, and what a stage is connected to


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Part(Fields):
    """Base of all parts. A kind of parts (``Stage``, ``Policy``) names its table's ``group``; a class below it is one
    of that kind."""

    card: ClassVar[Card | None] = None
    """The publication, for a published method."""

    version: ClassVar[int] = 1
    """Raise it when the same settings and inputs give another output: it is in the fingerprint."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            raise ConfigError(f"{cls.__qualname__} has a constructor of its own",
                              where=f"{cls.__module__}.{cls.__qualname__}",
                              hint="declare its settings as fields (k: int = 10); check what belongs together in "
                                   "__post_init__")
        typed = vars(cls).get("__annotations__", {})
        for name, kind in typed.items():
            default = vars(cls).get(name)
            # no two parts share it: it is frozen
            if isinstance(default, dict | list | set) and "ClassVar" not in str(kind):
                setattr(cls, name, dataclasses.field(default_factory=functools.partial(frozen, default)))
        inherited = [name for name in cls.setting_names() if name in vars(cls) and name not in typed]
        if inherited:
            raise ConfigError(f"{cls.__qualname__} sets {inherited[0]!r} without its type",
                              where=f"{cls.__module__}.{cls.__qualname__}",
                              hint=f"it is a setting of a base class: write {inherited[0]}: TYPE = "
                                   f"{vars(cls)[inherited[0]]!r:.80}")
        described = cls.__doc__
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
        cls.__doc__ = described  # not the signature that dataclass writes where there is none
        taken = [name for name in cls.setting_names() if name in _RESERVED or hasattr(Part, name)]
        if taken:
            raise ConfigError(f"{cls.__qualname__} cannot have a setting {taken[0]!r}",
                              where=f"{cls.__module__}.{cls.__qualname__}",
                              hint="files and parts use this word themselves: choose another")
        cls.__signature__ = signature(cls)  # type: ignore[attr-defined]  # what inspect and editors show

    # -- what a part may override --------------------------------------------------

    def identity(self) -> Any:
        """What besides the settings decides what it does (a weights hash, an index's version), as JSON; loads no
        model."""
        return None

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The part of this kind that ``text`` names; a kind may understand other texts too, such as a model's name."""
        return parse(cls, text)

    # -- what every part has -------------------------------------------------------

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
    hint = f"give a {kind.__name__}, or the text that names one"
    if isinstance(value, type):
        hint = f"call it: {value.__name__}(...)"
    raise ConfigError(f"{value!r:.80} is no {kind.__name__}", where=kind.__name__, hint=hint)


@overload
def register(cls: type[P], *, name: str | None = None) -> type[P]: ...


@overload
def register(cls: None = None, *, name: str | None = None) -> Callable[[type[P]], type[P]]: ...


def register(cls: type[P] | None = None, *, name: str | None = None) -> Any:
    """Make a part's class usable by name as long as this process lives: a decorator, ``@register`` or
    ``@register(name="Shout")``.

    A class that a distribution brings is listed in its table instead (``rag.tables``). Raises ``ConfigError`` for a
    name that is taken.
    """
    if cls is None:
        return functools.partial(register, name=name)
    if not (isinstance(cls, type) and issubclass(cls, Part) and cls.group):
        raise ConfigError(f"{cls!r:.80} is no part of a kind that has a table", where="register",
                          hint="register a subclass of Stage, ...")
    name = name or cls.__name__
    if set(name) & set(':,()= \t\n"'):
        raise ConfigError(f"{name!r:.80} is no name of a part", where=cls.group,
                          hint="leave out spaces and the signs : , ( ) = \"")
    cls.table().register(name, cls)
    return cls


def nested(value: Any, path: str = "") -> Iterator[tuple[str, Part]]:
    """Every part in ``value`` (a part, or what its settings hold), with its path (``policy``, ``body.bm25``), outer
    ones first. What has ``stages()`` by name (a plan of stages) is walked through, too."""
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


def _remade(cls: type[P], settings: dict[str, Any]) -> P:
    return cls(**settings)

