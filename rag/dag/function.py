"""A function as a stage."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import BeforeValidator

from ..errors import ConfigError
from ..nouns import Batch
from ..parts.spec import loaded
from .ports import Port, Ports, ports_of, type_name
from .stage import Stage


def _function(value: Any) -> Any:
    found = loaded(value) if isinstance(value, str) else value
    if not callable(found):
        raise ValueError("it is no function")
    return found


class Function(Stage):
    """An annotated function as a stage: ``p.add(fn, query)`` is ``p.add(Function(fn), query)``.

    Its annotations are the ports: ``def expand(query: Query) -> Query`` is called once a query, ``def expand(queries: Batch[Query]) ->
    Batch[Query]`` once a batch. A lambda has none: give what it ``takes`` and ``gives``. A file names a function by its import place
    (``package.module:expand``), and does not import it (see ``Pipeline.load``); a lambda, or a function within another, cannot be saved.
    """

    function: Annotated[Callable[..., Any], BeforeValidator(_function)]
    takes: tuple[Any, ...] | None = None
    gives: Any = None

    def __post_init__(self) -> None:
        self.ports()

    def default_name(self) -> str:
        name = self.function.__name__
        return name.lower() if name.isidentifier() else "function"

    def ports(self) -> Ports:
        where = f"{self.function.__module__}:{self.function.__qualname__}"
        parameters = list(inspect.signature(self.function).parameters.values())
        if self.takes is not None:
            names = [parameter.name for parameter in parameters]
            if len(self.takes) != len(names) or self.gives is None:
                raise ConfigError(f"{where} takes {', '.join(names)}", where="Function",
                                  hint="give a type for each: Function(lambda query: ..., takes=(Query,), gives=Query)")
            return Ports(tuple(Port(name, kind) for name, kind in zip(names, self.takes, strict=True)),
                         (Port(type_name(self.gives).lower(), self.gives),))
        if self._of_batches():
            return ports_of(self.function, parameters, where)
        hints = _hints(self.function, where)
        missing = [name for name in (*(p.name for p in parameters), "return") if name not in hints]
        if missing or not parameters:
            wrong = f"{missing[0]!r} has no annotation" if missing else "it takes nothing"
            raise ConfigError(f"{where} cannot be a stage: {wrong}", where="Function",
                              hint="annotate it: def expand(query: Query) -> Query; for a lambda give takes=(Query,), gives=Query")
        inputs = tuple(Port(p.name, hints[p.name], p.default is not inspect.Parameter.empty) for p in parameters)
        return Ports(inputs, (Port(type_name(hints["return"]).lower(), hints["return"]),))

    def run(self, *batches: Batch[Any]) -> Any:
        if self._of_batches():
            return self.function(*batches)
        return Batch(self.function(*values) for values in zip(*batches, strict=True))

    def _of_batches(self) -> bool:
        if self.takes is not None:
            return False
        hints = _hints(self.function, self.function.__qualname__)
        return any(get_origin(hint) is Batch for hint in hints.values())


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ConfigError(f"the annotations of {where} cannot be read: {error}", where="Function",
                          hint="import what they name at the top of the module") from None
