"""A function as a stage."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, get_origin, get_type_hints

from pydantic import BeforeValidator

from ..errors import ConfigError
from ..nouns import Batch
from ..parts.spec import loaded
from .ports import Port, Ports, ports_of, type_name
from .stage import Stage


def _named(value: Any) -> Any:
    """What a file has by its import place."""
    return loaded(value) if isinstance(value, str) else value


def _function(value: Any) -> Any:
    found = _named(value)
    if not callable(found):
        raise ValueError("it is no function")
    return found


class Function(Stage):
    """An annotated function as a stage: ``p.add(fn, query)`` is ``p.add(Function(fn), query)``.

    Its annotations are the ports: ``def expand(query: Query) -> Query`` is called once a query, ``def expand(queries: Batch[Query]) ->
    Batch[Query]`` once a batch. A lambda has none: give what it ``takes`` and ``gives``. A file names a function by its import place
    (``package.module:expand``), and does not import it (see ``Pipeline.load``); a lambda, or a function within another, cannot be saved.
    Parameters that can only be given by name keep their defaults.
    """

    function: Annotated[Callable[..., Any], BeforeValidator(_function)]
    takes: tuple[Annotated[Any, BeforeValidator(_named)], ...] | None = None
    gives: Annotated[Any, BeforeValidator(_named)] = None

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
        unfed = next((parameter for parameter in parameters if parameter.kind in (_NAMED, inspect.Parameter.VAR_KEYWORD)), None)
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
                              hint="annotate it: def expand(query: Query) -> Query; for a lambda give takes=(Query,), gives=Query")
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
