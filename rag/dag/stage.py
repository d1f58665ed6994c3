"""The stage contract: a class whose ``run`` annotations are its ports.

    class Shout(Stage):
        def __init__(self, mark: str = "!") -> None:
            self.mark = mark

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(replace(q, text=q.text.upper() + self.mark) for q in queries)

The constructor takes plain, serialisable settings, stores each under its own name and loads nothing; settings are
validated against the constructor's annotations and cannot be set afterwards. Models load in ``open`` and go in ``close``.

A stage runs in a pipeline, or alone:

    with Shout("?") as shout:
        shout.run(["is that so"])
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import ConfigError, StageError
from ..nouns import Batch, Query
from ..parts import Part, plain
from ..parts.identity import identity
from .ports import Port, accepts, ports, type_name

if TYPE_CHECKING:
    from ..trust import Connection, FileOrigin


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

    model_settings: ClassVar[tuple[str, ...]] = ()
    """The settings that name a model: an embedded one, a folder, or a hub's id."""

    name: str = ""
    """The stage's name in its pipeline and in every hit's history; the pipeline sets it."""

    origin: FileOrigin | None = None
    """The pipeline file that the settings are from, which may not do all that its user may; None for a stage that was made in Python."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _validated(cls.__init__, cls.__name__)  # type: ignore[method-assign]  # the same signature, checked
        if "run" in cls.__dict__:
            cls.run = _batched(cls.run)  # type: ignore[attr-defined]  # a stage defines it, with ports of its own

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

    def connections(self) -> Iterator[Connection]:
        """The servers that this stage would use, and the key variables whose values it would send there: the hub, for a model that is
        named by an id."""
        from ..models.chosen import hub

        named = [getattr(self, setting) for setting in self.model_settings]
        return hub(name.removeprefix("nli:").removeprefix("lm:") for name in named if isinstance(name, str))

    @property
    def store_uri(self) -> str:
        """The passage store that this stage's rankings point into; empty when it makes none of its own."""
        return ""

    def state(self) -> Any:
        """What besides the settings decides the output (an index version, a model's weights hash), as JSON; loads no model."""
        return None

    # -- what every stage has ------------------------------------------------------

    def __enter__(self) -> Self:
        """Open the stage, to try it alone: ``run`` then takes lists too, and plain strings for queries."""
        try:
            self.open()
        except BaseException:
            self.close()  # what was loaded before something else was found wrong
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_settings", ()):
            raise ConfigError(f"{name} was set when the stage was made", where=f"stage {self.label!r}",
                              hint=f"make another: {type(self).__name__}({name}={value!r:.80}, ...)")
        super().__setattr__(name, value)

    def copy(self) -> Self:
        """Another stage with the same settings, not opened and without a name. Settings that are objects are shared.

        Raises ``ConfigError`` for a stage that does not keep each of its constructor's arguments under its own name.
        """
        try:
            made = type(self)(**{name: getattr(self, name) for name in self.setting_names()})
            made.origin = self.origin
            return made
        except AttributeError as error:
            raise ConfigError(f"{type(self).__name__} does not keep its settings: {error}", where=f"{type(self).__qualname__}.__init__",
                              hint="store each argument of the constructor under its own name, and take no *args or **kwargs") from None

    def not_open(self) -> StageError:
        """What ``run`` raises before ``open``."""
        return StageError(f"the stage {self.label!r} is not open", where=f"stage {self.label!r}",
                          hint=f"with {type(self).__name__}(...) as stage: stage.run(...), or add it to a pipeline, which opens it")

    @property
    def label(self) -> str:
        """The name in a pipeline, or the class name outside one."""
        return self.name or type(self).__name__

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values, for files and for people."""
        return {name: _plain(getattr(self, name)) for name in self.setting_names()}

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names of the constructor's arguments; none for a class without a constructor of its own."""
        return [] if cls.__init__ is object.__init__ else list(inspect.signature(cls.__init__).parameters)[1:]

    def fingerprint(self) -> str:
        """A hash of everything that decides the output, apart from the input, as things stand now."""
        parts = [type(self).__module__, type(self).__qualname__, self.version, self.label, self.identity(), identity(self.state())]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def identity(self) -> dict[str, Any]:
        """The settings as plain JSON, with the classes of those that are objects: what the fingerprint holds of them.

        All of them, also those that should not matter (``device``, ``batch_tokens``): floats differ in the last digits with the device and
        with how a batch is padded.
        """
        return {name: identity(getattr(self, name)) for name in self.setting_names()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.settings().items())})"


def stage_name(stage: type[Stage]) -> str:
    """The name that YAML files use: the class's name."""
    return stage.__name__


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
            if type(self).__init__ is wrapper:  # the outermost constructor has run: what it set stays
                self.__dict__["_settings"] = frozenset(self.setting_names())
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{name} cannot be made: {problems}", where=name,
                              hint=f"settings: {inspect.signature(init)}") from None

    return wrapper


def _batched(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, which also takes lists and tuples for batches, and strings for queries, so that a stage can be tried alone."""

    @functools.wraps(run)
    def wrapper(self: Stage, *inputs: Any, **named: Any) -> Any:
        if all(type(value) is Batch for value in (*inputs, *named.values())):
            return run(self, *inputs, **named)
        wanted = ports(type(self)).inputs
        by_name = {port.name: port for port in wanted}
        by_place = chain(wanted, repeat(wanted[-1] if wanted[-1].variadic else None))
        return run(self, *(_batch(self, port, value) for port, value in zip(by_place, inputs, strict=False)),
                   **{name: _batch(self, by_name.get(name), value) for name, value in named.items()})

    return wrapper


def _batch(stage: Stage, port: Port | None, value: Any) -> Any:
    """``value`` as a batch for ``port``. Raises ``StageError`` for what is none; what no port takes is ``run``'s to refuse."""
    if port is None or type(value) is Batch or (value is None and port.optional):
        return value
    if not isinstance(value, list | tuple):
        raise StageError(f"{port.name} is a {type(value).__name__}, not a batch", where=f"stage {stage.label!r}",
                         hint=f"give a list with one {type_name(port.type)} a query")
    items = [Query(item, id=f"q{i}") if port.type is Query and isinstance(item, str) else item for i, item in enumerate(value, 1)]
    wrong = next((item for item in items if not accepts(port.type, item)), None)
    if wrong is not None:
        raise StageError(f"{port.name} holds a {type(wrong).__name__}, not {type_name(port.type)}", where=f"stage {stage.label!r}",
                         hint=f"give a list with one {type_name(port.type)} a query")
    return Batch(items)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return plain(value)
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
