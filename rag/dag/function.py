"""A function as a stage."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, WithJsonSchema

from .. import nouns
from ..errors import ConfigError
from ..nouns import Batch
from ..parts.spec import loaded
from .ports import Port, Ports, is_type, ports_of, type_name
from .stage import Stage

_NOUNS = {noun for noun in map(vars(nouns).get, nouns.__all__) if isinstance(noun, type)
          and noun.__module__.startswith(nouns.__name__)}


def _function(value: Any) -> Any:
    """A function as it is, or one by its import place; that text may be a file's, so it names only what was written for
    pipelines: of ``os:system`` no file makes a stage."""
    found = loaded(value) if isinstance(value, str) else value
    if not callable(found):
        raise ValueError("it is no function")
    if isinstance(value, str) and not any(_names_noun(kind) for name, kind in _hints(found, value).items()
                                          if name != "return"):
        raise ConfigError(f"a file cannot name {value}: it takes nothing of Regard's", where="Function",
                          hint="name a function that takes a Query, a Ranking or another noun, or build this pipeline "
                               "in Python")
    return found


def _names_noun(kind: Any) -> bool:
    return any(kind is noun or get_origin(kind) is noun for noun in _NOUNS) or any(map(_names_noun, get_args(kind)))


def _type(value: Any) -> Any:
    if not (value is None or is_type(value)):
        raise ValueError(f"{value!r:.80} is no type; give it in Python")
    return value


_Type = Annotated[Any, BeforeValidator(_type)]
_Callable = Annotated[Callable[..., Any], BeforeValidator(_function), WithJsonSchema({"type": "string"})]


class Function(Stage):
    """An annotated function as a stage: ``p.add(fn, query)`` is ``p.add(Function(fn), query)``.

    Its annotations are the ports: ``def expand(query: Query) -> Query`` is called once a query, ``def expand(queries:
    Batch[Query]) -> Batch[Query]`` once a batch. A lambda has none: give what it ``takes`` and ``gives``. Parameters
    that can only be given by name keep their defaults. A file names a function by its import place
    (``package.module:expand``): one that was imported before and takes one of Regard's nouns. A lambda, a function
    whose types were given, or one within another cannot be saved.
    """

    function: _Callable
    takes: tuple[_Type, ...] | None = None
    gives: _Type = None

    def __post_init__(self) -> None:
        self.ports()  # says at once what is wrong

    def default_name(self) -> str:
        name = getattr(self.function, "__name__", "")
        return name.lower() if name.isidentifier() else "function"

    def ports(self) -> Ports:
        return self._read.ports

    def run(self, *batches: Batch[Any] | None) -> Any:
        if self._read.of_batches:
            return self.function(*batches)
        size = next(len(batch) for batch in batches if batch is not None)
        left_out = [[default] * size for default in self._read.defaults]
        columns = [batch if batch is not None else left_out[i] for i, batch in enumerate(batches)]
        return Batch(self.function(*values) for values in zip(*columns, strict=True))

    @functools.cached_property
    def _read(self) -> _Read:
        where = _place(self.function)
        try:
            given = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the parameters of {where} cannot be read: {error}", where="Function",
                              hint="write a function that calls it") from None
        parameters = [parameter for parameter in given if parameter.kind is not _NAMED or parameter.default is _NONE]
        unfed = next((parameter for parameter in parameters
                      if parameter.kind in (_NAMED, inspect.Parameter.VAR_KEYWORD)), None)
        if unfed is not None:
            raise ConfigError(f"{where} cannot be a stage: nothing feeds {unfed.name!r}", where="Function",
                              hint="a stage's inputs are parameters that may be given by position")
        defaults = tuple(parameter.default for parameter in parameters)
        if self.takes is not None:
            return _Read(self._as_given(parameters, where), False, defaults)
        hints = _hints(self.function, where)
        if any(get_origin(hint) is Batch for hint in hints.values()):
            return _Read(ports_of(self.function, parameters, where), True, defaults)
        missing = [name for name in (*(p.name for p in parameters), "return") if name not in hints]
        if missing or not parameters:
            wrong = f"{missing[0]!r} has no annotation" if missing else "it takes nothing"
            raise ConfigError(f"{where} cannot be a stage: {wrong}", where="Function",
                              hint="annotate it: def expand(query: Query) -> Query; for a lambda give takes=(Query,), "
                                   "gives=Query")
        return _Read(_ports(parameters, [hints[p.name] for p in parameters], hints["return"]), False, defaults)

    def _as_given(self, parameters: list[inspect.Parameter], where: str) -> Ports:
        if self.takes is None or len(self.takes) != len(parameters) or self.gives is None:
            raise ConfigError(f"{where} takes {', '.join(p.name for p in parameters)}", where="Function",
                              hint="give a type for each: Function(lambda query: ..., takes=(Query,), gives=Query)")
        return _ports(parameters, self.takes, self.gives)


class _Read(NamedTuple):
    """What a function's signature says: its ports, whether they are whole batches, and each parameter's default."""

    ports: Ports
    of_batches: bool
    defaults: tuple[Any, ...]


_NONE, _NAMED = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY


def _ports(parameters: Sequence[inspect.Parameter], takes: Sequence[Any], gives: Any) -> Ports:
    inputs = (Port(p.name, kind, p.default is not _NONE, p.kind is inspect.Parameter.VAR_POSITIONAL)
              for p, kind in zip(parameters, takes, strict=True))
    return Ports(tuple(inputs), (Port(type_name(gives).lower(), gives),))


def _place(function: Callable[..., Any]) -> str:
    """``module:name``, for messages."""
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ConfigError(f"the annotations of {where} cannot be read: {error}", where="Function",
                          hint="import what they name at the top of the module") from None
