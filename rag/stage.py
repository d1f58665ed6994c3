"""The stage contract: a class whose ``run`` annotations are its ports.

    class Shout(Stage):
        def __init__(self, mark: str = "!") -> None:
            self.mark = mark

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(replace(q, text=q.text.upper() + self.mark) for q in queries)

The constructor takes plain, serialisable settings, stores each under its own name and loads nothing; settings are
validated against the constructor's annotations. Models load in ``open`` and go in ``close``.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from .documents import Batch
from .errors import ConfigError, PipelineError


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a stage. ``type`` is what the batch holds; a variadic port takes any number of batches."""

    name: str
    type: type
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    inputs: tuple[Port, ...]
    output: Port


@dataclass(frozen=True, slots=True)
class Problem:
    """What ``check`` found: ``what`` is wrong at ``where``, and ``hint`` says what to do; only a fatal one stops a run."""

    what: str
    where: str = ""
    hint: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n  -> {self.hint}" if self.hint else "")


class Stage:
    """Base of all stages. Subclasses define ``__init__`` (settings) and ``run`` (ports)."""

    version: ClassVar[int] = 1
    """Raise it when the same settings and inputs give another output, so that cached outputs are not reused."""

    needs_text: ClassVar[bool] = False
    """True when ``run`` reads the passages' text, so that ``check`` can refuse a store without it."""

    name: str = ""
    """The stage's name in its pipeline and in every hit's history; the pipeline sets it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _validated(cls.__init__, cls.__name__)  # type: ignore[method-assign]

    # -- what a stage may override -------------------------------------------------

    @property
    def deterministic(self) -> bool:
        """True when the same input always gives the same output; only such a stage is cached."""
        return True

    def open(self) -> None:
        """Load models and open files. Called once before the first ``run``."""

    def close(self) -> None:
        """Release what ``open`` (or ``state``) loaded; harmless when there is nothing."""

    def check(self) -> Iterator[Problem]:
        """Problems that can be seen before anything heavy is loaded."""
        return iter(())

    def check_inputs(self, upstream: Mapping[str, Stage]) -> Iterator[Problem]:
        """Problems with the stages (by name) whose output reaches this one, directly or through others."""
        return iter(())

    @property
    def store_uri(self) -> str:
        """The passage store that this stage's rankings point into; empty when it makes none of its own."""
        return ""

    def state(self) -> Any:
        """What besides the settings decides the output (an index version, a model's weights hash), as JSON; loads no model."""
        return None

    # -- what every stage has ------------------------------------------------------

    @property
    def label(self) -> str:
        """The name in a pipeline, or the class name outside one."""
        return self.name or type(self).__name__

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {name: _plain(getattr(self, name)) for name in self.setting_names()}

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names of the constructor's arguments; none for a class without a constructor of its own."""
        return [] if cls.__init__ is object.__init__ else list(inspect.signature(cls.__init__).parameters)[1:]

    def fingerprint(self) -> str:
        """A hash of everything that decides the output, apart from the input, as things stand now."""
        parts = [type(self).__module__, type(self).__qualname__, self.version, self.label, self.settings(), self.state()]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.settings().items())})"


def stage_name(stage: type[Stage]) -> str:
    """The name that YAML files use: the class's name."""
    return stage.__name__


def ports(stage: type[Stage]) -> Ports:
    """Read the ports from ``run``'s annotations. Raises ``PipelineError`` when they are not ``Batch[...]``."""
    run = getattr(stage, "run", None)
    where = f"{stage.__module__}.{stage.__qualname__}.run"
    if run is None:
        raise PipelineError(f"{stage.__qualname__} has no method run", where=where, hint="a stage defines run(...) -> Batch[...]")
    hints = get_type_hints(run)
    inputs = []
    for name, parameter in list(inspect.signature(run).parameters.items())[1:]:
        element, optional = _element(hints.get(name), where, name)
        inputs.append(Port(name, element, optional or parameter.default is not inspect.Parameter.empty,
                           parameter.kind is inspect.Parameter.VAR_POSITIONAL))
    element, _ = _element(hints.get("return"), where, "return")
    return Ports(tuple(inputs), Port(element.__name__.lower(), element))


def _element(annotation: Any, where: str, name: str) -> tuple[type, bool]:
    """``Batch[T]`` -> (T, False); ``Batch[T] | None`` -> (T, True)."""
    if get_origin(annotation) in (Union, UnionType):
        rest = [a for a in get_args(annotation) if a is not NoneType]
        if len(rest) == 1:
            return _element(rest[0], where, name)[0], True
    if get_origin(annotation) is not Batch:
        raise PipelineError(f"{name!r} is annotated {annotation!r}, not Batch[...]", where=where,
                            hint="a port carries a batch: annotate it Batch[Query], Batch[Ranking], ...")
    (element,) = get_args(annotation)
    return element, False


def _validated(init: Callable[..., None], name: str) -> Callable[..., None]:
    """Check and convert a constructor's arguments by its annotations (pydantic), as a ``ConfigError`` that names the setting."""

    @functools.cache
    def checked() -> Callable[..., None]:
        from pydantic import ConfigDict, validate_call  # at first use: importing it takes a tenth of a second

        return validate_call(config=ConfigDict(arbitrary_types_allowed=True))(init)

    @functools.wraps(init)
    def wrapper(self: Stage, *args: Any, **kwargs: Any) -> None:
        from pydantic import ValidationError

        try:
            checked()(self, *args, **kwargs)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{name} cannot be made: {problems}", where=name,
                              hint=f"settings: {inspect.signature(init)}") from None

    return wrapper


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if callable(getattr(value, "fingerprint", None)):  # an object that is no plain value, but says what it is: an encoder
        return {"object": f"{type(value).__module__}.{type(value).__qualname__}", "fingerprint": _plain(value.fingerprint())}
    if hasattr(value, "model_dump"):  # a group of settings that is a pydantic model
        return value.model_dump(mode="json")
    return value
