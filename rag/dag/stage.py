"""A stage: a part whose ``run`` annotations are its ports.

    class Shout(Stage):
        mark: str = "!"

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            return Batch(query.derive(query.text.upper() + self.mark) for query in queries)

A stage is a value: it has settings and nothing else, so the same object may stand in two pipelines, run in two threads
and be held by another stage. What it opens belongs to the run's ``Scope``: ``open(scope)`` gives it, and ``run`` gets
it as its first argument. The executor gives a stage its name in a pipeline and writes it into the history of every
ranking.

A stage runs in a pipeline, or alone:

    Shout("?").apply(["is that so"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from ..errors import RegardError, StageError
from ..nouns import Batch, Query
from ..parts import Part
from ..tables import table
from .ports import Port, Ports, accepts, said, signature, type_name
from .scope import Scope, entered

if TYPE_CHECKING:
    from ..trust import Connection, FileOrigin


class Need(Enum):
    """What a stage needs of what reaches it, or of its model; ``Pipeline.check`` looks whether it is there."""

    TEXT = "passages' text"
    LOGITS = "a model's logits"
    ATTENTION = "a model's attention"
    GRAMMAR = "answers of a given form"


@dataclass(frozen=True, slots=True)
class Problem:
    """What ``check`` found: ``what`` is wrong at ``where`` (empty: at the stage that found it), and ``hint`` says what
    to do; only a fatal one stops a run."""

    what: str
    where: str = ""
    hint: str = ""
    fatal: bool = True

    @classmethod
    def of(cls, error: RegardError, *, fatal: bool = True) -> Self:
        """What was raised, as a problem."""
        return cls(error.what, hint=error.hint or "", fatal=fatal)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n  -> {self.hint}" if self.hint else "")


class HasPlan(Protocol):
    """A pipeline."""

    def plan(self) -> Any: ...


class Stage(Part):
    """Base of all stages. Subclasses declare settings, and define ``run`` with their ports, and ``open`` if they open
    something."""

    group = "regard.stages"

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What ``check`` looks for."""

    marks: ClassVar[bool] = True
    """Whether the executor writes the stage into the history of the rankings that it gives; the stages inside a control
    stage do that."""

    origin: ClassVar[FileOrigin | None] = None
    """The pipeline file that the settings are from, which may not do all that its user may; None for a stage that was
    made in Python."""

    # -- what a stage may override -------------------------------------------------

    @property
    def deterministic(self) -> bool:
        """True when the same input always gives the same output; only such a stage is cached."""
        return True

    def open(self, scope: Scope, /) -> Any:
        """Open models and files in ``scope``; what this gives is the first argument of ``run``. A stage that does not
        override it opens nothing, and its ``run`` takes batches alone."""

    def check(self) -> Iterator[Problem]:
        """Problems that can be seen before anything heavy is loaded."""
        return iter(())

    def check_inputs(self, upstream: Mapping[str, Stage]) -> Iterator[Problem]:
        """Problems with the stages (by name) whose output reaches this one, directly or through others."""
        return iter(())

    def connections(self) -> Iterator[Connection]:
        """The servers that this stage would use, and the key variables whose values it would send there."""
        return iter(())

    @property
    def store_uri(self) -> str:
        """The passage store that this stage's rankings point into; empty when it makes none of its own."""
        return ""

    def ports(self) -> Ports:
        """What it takes and gives: ``run``'s annotations, for a stage whose ports do not hang on its settings."""
        return signature(type(self))

    def default_name(self) -> str:
        """What it is called in a pipeline where nobody names it."""
        return type(self).__name__.lower()

    # -- what every stage has ------------------------------------------------------

    def replace(self, **settings: Any) -> Self:
        """Another stage with these settings changed; what is from a file stays from there."""
        made = super().replace(**settings)
        return made if self.origin is None else made._from(replace(self.origin,
                                                                   overridden=self.origin.overridden | settings.keys()))

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments = super().__reduce__()
        return (make, arguments) if self.origin is None else (_copied, (make, arguments, self.origin))

    def _from(self, origin: FileOrigin) -> Self:
        object.__setattr__(self, "origin", origin)
        return self

    @classmethod
    def opens(cls) -> bool:
        """Whether ``run`` gets what ``open`` gives."""
        return cls.open is not Stage.open

    @contextmanager
    def opened(self) -> Iterator[Callable[..., Any]]:
        """Open the stage, to try it alone: gives its ``run``, which then takes lists too, and plain strings for
        queries."""
        with Scope() as scope, entered(scope):
            first = (scope.open(self),) if self.opens() else ()
            run = getattr(self, "run")  # noqa: B009 - a subclass defines it
            yield lambda *inputs, **named: run(*first, *self._batches(inputs, named))

    def apply(self, *inputs: Any, **named: Any) -> Any:
        """Open the stage, run it once on lists (plain strings for queries), and close it."""
        with self.opened() as run:
            return run(*inputs, **named)

    def __rshift__(self, following: Any) -> Any:
        """``BM25(index) >> CrossEncoder()``: a pipeline of both (``rag.dag.compose``)."""
        return table("regard.operators")["then"](self, following)

    def __call__(self, *before: Stage | HasPlan) -> Any:
        """``Fuse()(BM25(index), Dense(index))``: a pipeline of this stage fed by those (``rag.dag.compose``)."""
        return table("regard.operators")["together"](self, *before)

    def _batches(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Any]:
        """What ``run`` is given, as batches. Raises ``StageError`` where that is too few, too many, or unknown."""
        wanted = self.ports().inputs
        rest = [port for port in wanted[len(inputs):] if not port.variadic]
        unknown = named.keys() - {port.name for port in rest}
        missing = [port for port in wanted[len(inputs):] if not (port.optional or port.name in named)]
        if unknown or missing or (len(inputs) > len(wanted) and not wanted[-1].variadic):
            raise StageError(f"it was given {len(inputs)} inputs by position"
                             + "".join(f", {name!r}" for name in named),
                             where=type(self).__name__, hint=f"give ({said(wanted)})")
        for port, value in zip(chain(wanted, repeat(wanted[-1])), inputs, strict=False):
            yield _batch(self, port, value)
        last = max((i for i, port in enumerate(rest) if port.name in named), default=-1)
        for port in rest[:last + 1]:
            yield _batch(self, port, named.get(port.name))


def _copied(make: Callable[..., Stage], arguments: tuple[Any, ...], origin: FileOrigin) -> Stage:
    return make(*arguments)._from(origin)


def _batch(stage: Stage, port: Port, value: Any) -> Any:
    """``value`` as a batch for ``port``. Raises ``StageError`` for what is none."""
    if type(value) is Batch or (value is None and port.optional):
        return value
    where, hint = type(stage).__name__, f"give a list with one {type_name(port.type)} a query"
    if not isinstance(value, list | tuple):
        raise StageError(f"{port.name} is a {type(value).__name__}, not a batch", where=where, hint=hint)
    items = [Query(item, id=f"q{i}") if port.type is Query and isinstance(item, str) else item
             for i, item in enumerate(value, 1)]
    wrong = next((item for item in items if not accepts(port.type, item)), None)
    if wrong is not None:
        raise StageError(f"{port.name} holds a {type(wrong).__name__}, not {type_name(port.type)}", where=where,
                         hint=hint)
    return Batch(items)
