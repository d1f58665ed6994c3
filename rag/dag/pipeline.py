"""The builder: a functional description of a DAG of stages, checked where it is made.

    p = Pipeline()
    query = p.input(Query)
    hits = p.add(BM25("my-index", k=200), query)
    best = p.add(CrossEncoder(depth=50), query, hits)
    p.output(passages=p.add(Parents(), best))
    p.run("how long is the life cycle of a flea").passages
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import weakref
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, overload

from ..errors import PipelineError, QueryError, RegardError
from ..files import local_path
from ..nouns import Batch, Query
from ..parts import nested
from ..tables import html, table
from .cache import StageCache
from .check import problems
from .compose import then, together
from .config import load, save
from .draft import Draft, as_plan, as_stage
from .executor import Executor, Place
from .graph import Graph
from .plan import Plan, Ref, StageNode
from .ports import accepts, type_name
from .stage import Problem, Stage
from .stores import index_of, is_listed
from .threads import in_thread
from .trace import Event, Trace, listening

if TYPE_CHECKING:
    from ..trust import Connection

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)
R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Wire(Generic[R]):
    """What an input or a stage gives, to be handed to ``add`` and ``output``; a type checker knows it as
    ``Wire[Ranking]``."""

    pipeline: Pipeline
    ref: Ref
    type: Any

    def __repr__(self) -> str:
        return f"Wire({self.ref}: Batch[{type_name(self.type)}])"


class _OfOne(Protocol[A, R]):
    """A stage that takes one batch: what type checkers see of it, as of the others below."""

    def run(self, a: Batch[A], /) -> Batch[R]: ...


class _OfTwo(Protocol[A, B, R]):
    def run(self, a: Batch[A], b: Batch[B], /) -> Batch[R]: ...


class _OfThree(Protocol[A, B, C, R]):
    def run(self, a: Batch[A], b: Batch[B], c: Batch[C], /) -> Batch[R]: ...


class _OfMany(Protocol[A, R]):
    def run(self, *each: Batch[A]) -> Batch[R]: ...


class _OpenOfOne(Protocol[A, R]):
    """A stage that opens something, which its ``run`` gets first."""

    def run(self, opened: Any, a: Batch[A], /) -> Batch[R]: ...


class _OpenOfTwo(Protocol[A, B, R]):
    def run(self, opened: Any, a: Batch[A], b: Batch[B], /) -> Batch[R]: ...


class _OpenOfThree(Protocol[A, B, C, R]):
    def run(self, opened: Any, a: Batch[A], b: Batch[B], c: Batch[C], /) -> Batch[R]: ...


class _OpenOfMany(Protocol[A, R]):
    def run(self, opened: Any, /, *each: Batch[A]) -> Batch[R]: ...


class _Bundle(Protocol):
    """A ``NamedTuple`` of batches."""

    _fields: tuple[str, ...]


class _Giving(Protocol):
    """A stage with several outputs."""

    def run(self, *batches: Any, **named: Any) -> _Bundle: ...


@dataclass(frozen=True, slots=True)
class Result(Mapping[str, Any]):
    """What a run gave: its outputs by name (also as attributes) and its trace. One value an output for one query, else
    a batch."""

    outputs: dict[str, Any]
    trace: Trace

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.outputs[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self.outputs)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def _repr_html_(self) -> str:
        text: str = table("regard.renderers")["Result"](self.outputs, self.trace)
        return text


@dataclass(frozen=True, slots=True)
class RunDone:
    """The last event of a stream."""

    result: Result


class _Cancelled(BaseException):
    """Raised inside a streamed run whose consumer has gone."""


class Pipeline:
    """A DAG of typed stages. ``cache`` is a folder (or a ``StageCache``) that keeps deterministic stages' outputs.

    An open pipeline reads each index at one version, the newest when it was opened, in all its stages. ``refresh`` goes
    on to the newest one; with ``follow`` every run does so first. Neither setting is saved in a file. A pipeline that
    nobody closes lets go of its models when it is collected.
    """

    def __init__(self, name: str = "pipeline", cache: StageCache | Path | str | None = None, follow: bool = False, *,
                 plan: Plan | None = None) -> None:
        self.name = name
        self.cache = cache
        self.follow = follow
        self._draft = Draft(name, plan)
        self._kept: StageCache | None = None
        self._executor: Executor | None = None
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._finalizer: Any = None

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The type of each input."""
        return self._draft.inputs

    @property
    def nodes(self) -> Mapping[str, StageNode]:
        """The stages by name, each after what feeds it."""
        return self._draft.nodes

    @property
    def outputs(self) -> Mapping[str, Ref]:
        """What is given back, by name."""
        return self._draft.outputs

    def plan(self) -> Plan:
        """The DAG as a value, as it is now."""
        return self._draft.plan()

    # -- building --------------------------------------------------------------------

    @overload
    def input(self, type: type[T], name: str | None = None) -> Wire[T]: ...

    @overload
    def input(self, type: Any, name: str | None = None) -> Wire[Any]: ...

    def input(self, type: Any, name: str | None = None) -> Wire[Any]:
        """Declare an input; what ``run`` is given. Its name defaults to the type's, in lower case.

        Raises ``PipelineError`` for what is no type.
        """
        return Wire(self, self._draft.input(type, name), type)

    @overload
    def add(self, stage: _OfOne[A, R], a: Wire[A], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OfTwo[A, B, R], a: Wire[A], b: Wire[B], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(
        self, stage: _OfThree[A, B, C, R], a: Wire[A], b: Wire[B], c: Wire[C], /, *, name: str | None = None,
    ) -> Wire[R]: ...

    @overload
    def add(self, stage: _OfMany[A, R], /, *inputs: Wire[A], name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OpenOfOne[A, R], a: Wire[A], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OpenOfTwo[A, B, R], a: Wire[A], b: Wire[B], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(
        self, stage: _OpenOfThree[A, B, C, R], a: Wire[A], b: Wire[B], c: Wire[C], /, *, name: str | None = None,
    ) -> Wire[R]: ...

    @overload
    def add(self, stage: _OpenOfMany[A, R], /, *inputs: Wire[A], name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: Callable[[A], R], a: Wire[A], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: Callable[[A, B], R], a: Wire[A], b: Wire[B], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _Giving, /, *inputs: Wire[Any], name: str | None = None, **named: Wire[Any]) -> Any: ...

    @overload
    def add(self, stage: Any, /, *, name: str | None = None, **named: Wire[Any]) -> Any: ...

    def add(self, stage: Any, /, *inputs: Wire[Any], name: str | None = None, **named: Wire[Any]) -> Any:
        """Add ``stage``, fed by ``inputs`` in the order of its ports, and by ``named`` ones. An annotated function is a
        stage, too.

        Gives a wire; for a stage with several outputs a tuple of wires, by the outputs' names too. Raises where the
        connection is wrong. The same object may be added to several pipelines, or twice.
        """
        stage = stage if isinstance(stage, Stage) else as_stage(stage, self.name)
        for i, wire in enumerate(inputs):
            self._own(wire, f"input {i + 1} of {_called(stage)}")
        for port, wire in named.items():
            self._own(wire, f"port {port!r} of {_called(stage)}")
        refs = self._draft.add(stage, [wire.ref for wire in inputs], {port: wire.ref for port, wire in named.items()},
                               name)
        self.close()
        plan = self._draft.plan()
        wires: list[Wire[Any]] = [Wire(self, ref, plan.type_of(ref)) for ref in refs]
        if not refs[0].output:
            return wires[0]
        return _bundle(tuple(ref.output for ref in refs))(*wires)

    def output(self, **outputs: Wire[Any]) -> Self:
        """Name what ``run`` gives back."""
        for name, wire in outputs.items():
            self._own(wire, f"output {name!r}")
            if not name.isidentifier() or hasattr(Result, name):
                raise PipelineError(f"{name!r} cannot name an output", where=self.name,
                                    hint="choose a plain word that Result does not use")
            self._draft.output(name, wire.ref)
        self.close()
        return self

    def _own(self, wire: Wire[Any], where: str) -> None:
        if not isinstance(wire, Wire) or wire.pipeline is not self:
            raise PipelineError(f"{where} is fed by {wire!r}, which is no wire of this pipeline", where=self.name,
                                hint="pass what this pipeline's input() and add() returned")

    def __rshift__(self, stage: Any) -> Pipeline:
        """This pipeline with ``stage`` at its end, as another one: see ``rag.dag.compose``."""
        return Pipeline(self.name, self.cache, self.follow, plan=then(self.plan(), stage))

    # -- looking ---------------------------------------------------------------------

    def graph(self) -> Graph:
        """The pipeline as nodes and edges, for drawing."""
        return self.plan().graph()

    def to_mermaid(self) -> str:
        """The DAG as a Mermaid flow chart."""
        drawn: str = table("regard.renderers")["Mermaid"](self.graph())
        return drawn

    def to_svg(self, trace: Trace | None = None) -> str:
        """The DAG as a self-contained SVG, with the times and counts of a run (``result.trace``)."""
        drawn: str = table("regard.renderers")["SVG"](self.graph(), trace)
        return drawn

    def _repr_html_(self) -> str:
        return html(self.graph())

    def indexes(self) -> list[Path]:
        """The indexes that the stages read: their folders, or what names them."""
        uris = dict.fromkeys(stage.store_uri for _, stage in nested(self.plan()) if isinstance(stage, Stage))
        return [index_of(uri) for uri in uris if is_listed(uri)]

    def connections(self) -> dict[str, list[Connection]]:
        """The servers that each stage would use, by its name, with the key variables whose values it would send
        there."""
        found = {path: list(stage.connections()) for path, stage in nested(self.plan()) if isinstance(stage, Stage)}
        return {path: used for path, used in found.items() if used}

    def check(self) -> list[Problem]:
        """Everything wrong that can be seen before a model is loaded; empty when the pipeline can run."""
        return problems(self.plan(), self.name)

    # -- running ---------------------------------------------------------------------

    def open(self) -> Self:
        """Check, then load every stage's models now rather than at the first run."""
        with self._held() as executor:
            for name in executor.order:
                executor.ensure_open(name)
        return self

    def close(self) -> None:
        """Release every model, as soon as the runs under way have ended. The pipeline can run again; it will load them
        again.

        Raises ``PipelineError`` when one of its own runs asks for it.
        """
        with self._lock:
            executor = self._executor
            if executor is None:
                return
            if executor.around:
                raise PipelineError("a run cannot close the pipeline that it is a run of", where=self.name,
                                    hint="close it after the run")
            executor.retire()
            self._adopt(None)
        executor.wait()

    def refresh(self) -> bool:
        """Go on to the newest version of the indexes that are open; whether there was one. Models stay loaded.

        Runs under way go on reading what they began with. Raises what opening a stage raises; the pipeline then stays
        as it was.
        """
        with self._refreshing:
            return self._refresh()

    def _refresh(self) -> bool:
        old = self._executor
        if old is None or not old.scope.superseded():
            return False
        new = Executor(old.plan)
        try:
            new.open_as(old)
        except BaseException:
            new.retire()
            raise
        with self._lock:
            if self._executor is not old:  # it was closed or built on in the meantime
                new.retire()
                return False
            self._adopt(new)
        old.retire()
        return True

    def _follow(self) -> None:
        """``refresh``, unless another thread is at it; what is open stays where the newest version cannot be opened."""
        if self._refreshing.acquire(blocking=False):
            try:
                self._refresh()
            except RegardError as error:
                log.warning("%s goes on with the version that it has: %s", self.name, error)
            finally:
                self._refreshing.release()

    def _adopt(self, executor: Executor | None) -> None:
        """Run by ``executor`` from now on; it must let go of what it holds even if nobody closes the pipeline."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._executor = executor
        self._finalizer = None
        if executor is not None:
            self._finalizer = weakref.finalize(self, executor.retire)
            self._finalizer.atexit = False

    @contextmanager
    def _held(self) -> Iterator[Executor]:
        """The executor, which is not closed while the block runs."""
        while True:
            executor = self._ready()
            with executor.running() as held:
                if held:
                    yield executor
                    return

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> Executor:
        with self._lock:
            if self._executor is None:
                fatal = [p for p in self.check() if p.fatal]
                if fatal:
                    raise PipelineError("the pipeline cannot run:\n" + "\n".join(f"- {p}" for p in fatal),
                                        where=self.name)
                self._adopt(Executor(self.plan()))
            assert self._executor is not None
            return self._executor

    def _stage_cache(self) -> StageCache | None:
        """The cache that ``cache`` names now: it may be set, or set to another, between two runs."""
        cache = self.cache
        if cache is None or isinstance(cache, StageCache):
            return cache
        local_path(cache, "stage cache")
        with self._lock:
            if self._kept is None or self._kept.folder != Path(cache).expanduser():
                self._kept = StageCache(cache)
            return self._kept

    def run(self, *values: Any, **named: Any) -> Result:
        """Run once. Give a value an input, in their order or by name: a query (or its text), or a list of them for a
        batch.

        Results do not depend on what else is in the batch. Errors carry the stage's name as a note.
        """
        batches, single = self._batches(values, named)
        if self.follow:
            self._follow()
        with self._held() as executor:
            computed, trace = executor.run(batches, Place(cache=self._stage_cache()))
            outputs = {name: computed[ref][0] if single else computed[ref]
                       for name, ref in executor.plan.outputs.items()}
        return Result(outputs, trace)

    async def arun(self, *values: Any, **named: Any) -> Result:
        """``run`` in a thread of its own, however many others there are. Cancelling it stops the run at its next
        event."""
        gone = threading.Event()

        def sink(_: Event) -> None:
            if gone.is_set():
                raise _Cancelled

        def work() -> Result:
            with listening(sink):
                return self.run(*values, **named)

        try:
            return await in_thread(work)
        finally:
            gone.set()

    def stream(self, *values: Any, **named: Any) -> Generator[Event | RunDone, None, None]:
        """``run``, as events while it happens: ``StageStarted``, ``StageDone``, ``TextDelta``, and last ``RunDone``.

        Closing the generator stops the run at its next event.
        """
        events: queue.SimpleQueue[Event | RunDone | BaseException] = queue.SimpleQueue()
        gone = threading.Event()

        def sink(event: Event) -> None:
            if gone.is_set():
                raise _Cancelled
            events.put(event)

        def work() -> None:
            try:
                with listening(sink):
                    events.put(RunDone(self.run(*values, **named)))
            except BaseException as error:  # handed to the consumer, who raises it
                events.put(error)

        worker = threading.Thread(target=copy_context().run, args=(work,), name=f"regard-{self.name}", daemon=True)
        worker.start()
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, RunDone):
                    return
        finally:
            gone.set()
            worker.join()

    async def astream(self, *values: Any, **named: Any) -> AsyncIterator[Event | RunDone]:
        """``stream`` for asynchronous callers."""
        events = self.stream(*values, **named)
        try:
            while (event := await in_thread(next, events, None)) is not None:
                yield event
        finally:
            await in_thread(events.close)

    def _batches(self, values: Sequence[Any], named: Mapping[str, Any]) -> tuple[dict[str, Batch[Any]], bool]:
        given = {**dict(zip(self.inputs, values, strict=False)), **named}
        twice = named.keys() & set(list(self.inputs)[:len(values)])
        if twice or len(values) > len(self.inputs) or given.keys() != self.inputs.keys():
            raise PipelineError(f"run was given {sorted(given)} and {len(values)} values by position", where=self.name,
                                hint=f"inputs: {', '.join(f'{n}: {type_name(t)}' for n, t in self.inputs.items())}")
        single = not any(isinstance(v, list | tuple) for v in given.values())
        batches = {n: _batch(v, self.inputs[n], n) for n, v in given.items()}
        if len({len(b) for b in batches.values()}) > 1:
            raise QueryError(f"the inputs have different lengths: { {n: len(b) for n, b in batches.items()} }",
                             where=self.name,
                             hint="give every input one value a query")
        return batches, single

    # -- files -----------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the pipeline as YAML. ``Pipeline.load`` gives it back exactly."""
        save(self.plan(), self.name, path)

    @classmethod
    def load(cls, path: str | Path, *, allow_keys: Sequence[str] = (), **settings: Any) -> Pipeline:
        """Read a YAML file. ``settings`` replace the setting of that name in every stage that has it
        (``index="other"``).

        ``allow_keys``: which keys the file may use where (``["llm.example.org=EXAMPLE_KEY"]``), beside what
        ``rag.trust`` lists.
        """
        name, plan = load(path, settings, allow_keys)
        return cls(name, plan=plan)


def _called(stage: Any) -> str:
    return type(stage).__name__ if isinstance(stage, Stage) else getattr(stage, "__name__", repr(stage)[:40])


@functools.cache
def _bundle(names: tuple[str, ...]) -> Any:
    """The class of what ``add`` gives for a stage with these outputs."""
    return namedtuple("Wires", names)


def _batch(value: Any, type: Any, name: str) -> Batch[Any]:
    if not isinstance(value, list | tuple):
        return Batch((_item(value, type, name, "q"),))
    return Batch(_item(v, type, name, f"q{i}") for i, v in enumerate(value, 1))


def _item(value: Any, type: Any, name: str, query_id: str) -> Any:
    if type is Query and isinstance(value, str):
        return Query(value, id=query_id)
    if not accepts(type, value):
        raise QueryError(f"input {name!r} takes {type_name(type)}, not {value.__class__.__name__}",
                         where=f"value {value!r:.80}",
                         hint=f"pass a {type_name(type)}" + (" or its text" if type is Query else ""))
    return value


def stage_then(stage: Stage, following: Any) -> Pipeline:
    """``stage >> following``."""
    return Pipeline(plan=then(as_plan(stage), following))


def stages_together(stage: Stage, *before: Any) -> Pipeline:
    """``stage(*before)``."""
    if not before:
        raise PipelineError(f"{type(stage).__name__} is fed by nothing", where="pipeline",
                            hint="give stages or pipelines")
    return Pipeline(plan=together(stage, list(before)))
