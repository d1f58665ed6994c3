"""The builder: a functional description of a DAG of stages, checked where it is made.

    p = Pipeline()
    query = p.input(Query)
    hits = p.add(BM25("my-index", k=200), query)
    best = p.add(CrossEncoder(depth=50), query, hits)
    p.output(passages=p.add(Parents(), best))
    p.run("how long is the life cycle of a flea").passages
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, overload

from ..errors import PipelineError, QueryError, RegardError
from ..files import local_path
from ..nouns import Batch, Query, Ranking
from ..tables import table
from .cache import StageCache
from .executor import Executor
from .graph import Edge, Graph, Node
from .ports import Port, accepts, is_type, meets, ports, type_name
from .stage import Problem, Stage
from .stores import open_store
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
    """What an input or a stage gives, to be handed to ``add`` and ``output``; a type checker knows it as ``Wire[Ranking]``."""

    pipeline: Pipeline
    node: str
    type: Any

    def __repr__(self) -> str:
        return f"Wire({self.node}: Batch[{type_name(self.type)}])"


class _OfOne(Protocol[A, R]):
    """A stage that takes one batch: what type checkers see of it, as of the others below."""

    def run(self, a: Batch[A], /) -> Batch[R]: ...


class _OfTwo(Protocol[A, B, R]):
    def run(self, a: Batch[A], b: Batch[B], /) -> Batch[R]: ...


class _OfThree(Protocol[A, B, C, R]):
    def run(self, a: Batch[A], b: Batch[B], c: Batch[C], /) -> Batch[R]: ...


class _OfMany(Protocol[A, R]):
    def run(self, *each: Batch[A]) -> Batch[R]: ...


@dataclass(slots=True)
class StageNode:
    """A stage in the DAG with the names of its sources, each with the port it feeds."""

    stage: Stage
    sources: list[tuple[str, Port]]


@dataclass(frozen=True, slots=True)
class Result(Mapping[str, Any]):
    """What a run gave: its outputs by name (also as attributes) and its trace. One value an output for one query, else a batch."""

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


@dataclass(eq=False)
class Pipeline:
    """A DAG of typed stages. ``cache`` is a folder (or a ``StageCache``) that keeps deterministic stages' outputs.

    An open pipeline reads each index at one version, the newest when it was opened, in all its stages. ``refresh`` goes on to the newest
    one; with ``follow`` every run does so first. Neither setting is saved in a file. A pipeline that nobody closes lets go of its models
    when it is collected.
    """

    name: str = "pipeline"
    cache: StageCache | Path | str | None = None
    follow: bool = False
    inputs: dict[str, Any] = field(default_factory=dict, init=False)
    nodes: dict[str, StageNode] = field(default_factory=dict, init=False)
    outputs: dict[str, str] = field(default_factory=dict, init=False)
    trace: Trace | None = field(default=None, init=False)
    _kept: StageCache | None = field(default=None, init=False, repr=False)
    _executor: Executor | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _refreshing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _finalizer: Any = field(default=None, init=False, repr=False)

    # -- building --------------------------------------------------------------------

    @overload
    def input(self, type: type[T], name: str | None = None) -> Wire[T]: ...

    @overload
    def input(self, type: Any, name: str | None = None) -> Wire[Any]: ...

    def input(self, type: Any, name: str | None = None) -> Wire[Any]:
        """Declare an input; what ``run`` is given. Its name defaults to the type's, in lower case.

        Raises ``PipelineError`` for what is no type.
        """
        if not is_type(type):
            raise PipelineError(f"{type!r:.80} is no type of an input", where=self.name, hint="give a class, such as Query, or list[str]")
        chosen = self._unused(name, getattr(type, "__name__", "value").lower())
        self.inputs[chosen] = type
        return Wire(self, chosen, type)

    @overload
    def add(self, stage: _OfOne[A, R], a: Wire[A], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OfTwo[A, B, R], a: Wire[A], b: Wire[B], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OfThree[A, B, C, R], a: Wire[A], b: Wire[B], c: Wire[C], /, *, name: str | None = None) -> Wire[R]: ...

    @overload
    def add(self, stage: _OfMany[A, R], /, *inputs: Wire[A], name: str | None = None) -> Wire[R]: ...

    def add(self, stage: Any, /, *inputs: Wire[Any], name: str | None = None) -> Wire[Any]:
        """Add ``stage``, fed by ``inputs`` in the order of its ``run``'s parameters. Raises where the connection is wrong.

        The pipeline gets a stage of its own with the same settings (``Stage.copy``), which only this pipeline names, opens and closes: the
        same object may be added to several pipelines, or twice.
        """
        if not isinstance(stage, Stage):
            raise PipelineError(f"{stage!r:.80} is no stage", where=self.name,
                                hint="add(stage, *wires): first an object of a subclass of Stage")
        chosen = self._unused(name, type(stage).__name__.lower())
        signature = ports(type(stage))
        sources = [(wire.node, port) for wire, port in self._connect(chosen, stage, signature.inputs, inputs)]
        own = _named(stage.copy(), chosen)
        self.close()
        self.nodes[chosen] = StageNode(own, sources)
        return Wire(self, chosen, signature.output.type)

    def output(self, **outputs: Wire[Any]) -> Self:
        """Name what ``run`` gives back."""
        for name, wire in outputs.items():
            self._own(wire, f"output {name!r}")
            if wire.node in self.inputs:
                raise PipelineError(f"output {name!r} is an input handed back", where=self.name, hint="connect a stage's output")
            if not name.isidentifier() or hasattr(Result, name):
                raise PipelineError(f"{name!r} cannot name an output", where=self.name, hint="choose a plain word that Result does not use")
            self.outputs[name] = wire.node
        self.close()
        return self

    def _unused(self, name: str | None, default: str) -> str:
        taken = self.inputs.keys() | self.nodes.keys()
        if name is not None:
            if name in taken:
                raise PipelineError(f"{name!r} is the name of something else in this pipeline", where=self.name, hint="choose another name")
            return name
        return next(n for n in (default if i == 1 else f"{default}_{i}" for i in range(1, len(taken) + 2)) if n not in taken)

    def _own(self, wire: Wire[Any], where: str) -> None:
        if not isinstance(wire, Wire) or wire.pipeline is not self:
            raise PipelineError(f"{where} is fed by {wire!r}, which is no wire of this pipeline", where=self.name,
                                hint="pass what this pipeline's input() and add() returned")

    def _connect(self, name: str, stage: Stage, wanted: Sequence[Port], wires: Sequence[Wire[Any]]) -> list[tuple[Wire[Any], Port]]:
        kind = type(stage).__name__
        signature = ", ".join(("*" if p.variadic else "") + f"{p.name}: {type_name(p.type)}" for p in wanted)
        variadic = next((p for p in wanted if p.variadic), None)
        plain = [p for p in wanted if not p.variadic]
        if len(wires) > len(plain) and not variadic:
            raise PipelineError(f"stage {name!r} ({kind}) takes {len(plain)} inputs, {len(wires)} were connected", where=self.name,
                                hint=f"connect ({signature})")
        missing = [p for p in plain[len(wires):] if not p.optional]
        if missing or (variadic and len(wires) <= len(plain)):
            absent = ", ".join(repr(p.name) for p in missing or wanted[-1:])
            raise PipelineError(f"port {absent} of stage {name!r} ({kind}) is not connected", where=self.name,
                                hint=f"connect ({signature})")
        pairs = list(zip(wires, [*plain, *repeat(variadic, len(wires))] if variadic else plain, strict=False))
        for wire, port in pairs:
            self._own(wire, f"port {port.name!r} of stage {name!r}")
            if not meets(wire.type, port.type):
                raise _type_error(self, wire, name, kind, port, wanted)
        return pairs

    # -- looking ---------------------------------------------------------------------

    def graph(self) -> Graph:
        """The pipeline as nodes and edges, for drawing."""
        types = {**self.inputs, **{n: ports(type(node.stage)).output.type for n, node in self.nodes.items()}}
        nodes = [Node(n, "input") for n in self.inputs]
        nodes += [Node(n, type(node.stage).__name__, node.stage.settings()) for n, node in self.nodes.items()]
        nodes += [Node(f"output:{n}", "output") for n in self.outputs]
        edges = [Edge(src, n, port.name, type_name(types[src])) for n, node in self.nodes.items() for src, port in node.sources]
        edges += [Edge(src, f"output:{n}", n, type_name(types[src])) for n, src in self.outputs.items()]
        return Graph(tuple(nodes), tuple(edges))

    def to_mermaid(self) -> str:
        """The DAG as a Mermaid flow chart."""
        text: str = table("regard.renderers")["Mermaid"](self.graph())
        return text

    def to_svg(self) -> str:
        """The DAG as a self-contained SVG, with the last run's times and counts if there was one."""
        text: str = table("regard.renderers")["SVG"](self.graph(), self.trace)
        return text

    def _repr_html_(self) -> str:
        text: str = table("regard.renderers")["Graph"](self.graph(), self.trace)
        return text

    def indexes(self) -> list[Path]:
        """The folders of the indexes that the stages read."""
        uris = dict.fromkeys(node.stage.store_uri for node in self.nodes.values())
        return [Path(uri.removeprefix("lance:")) for uri in uris if uri.startswith("lance:")]

    def connections(self) -> dict[str, list[Connection]]:
        """The servers that each stage would use, by its name, with the key variables whose values it would send there."""
        found = {name: list(node.stage.connections()) for name, node in self.nodes.items()}
        return {name: used for name, used in found.items() if used}

    def check(self) -> list[Problem]:
        """Everything wrong that can be seen before a model is loaded; empty when the pipeline can run."""
        problems = [*self._check_shape()]
        for name, node in self.nodes.items():
            found = [*node.stage.check(), *self._check_stores(name), *node.stage.check_inputs(self._stages_above(name))]
            problems += [Problem(p.what, p.where or f"stage {name!r}", p.hint, p.fatal) for p in found]
        return problems

    def _check_shape(self) -> Iterator[Problem]:
        if not self.outputs:
            yield Problem("the pipeline has no output", self.name, "call p.output(name=wire)")
        used = {src for node in self.nodes.values() for src, _ in node.sources} | set(self.outputs.values())
        for name in (*self.inputs, *self.nodes):
            if name not in used:
                yield Problem("nothing uses what it gives", f"{'input' if name in self.inputs else 'stage'} {name!r}",
                              "connect it, name it in p.output(...), or remove it", fatal=False)

    def _check_stores(self, name: str) -> Iterator[Problem]:
        """A stage that reads text needs a store that has it."""
        node = self.nodes[name]
        uris = {uri for src, port in node.sources if port.type is Ranking for uri in self._stores_above(src)}
        if not node.stage.needs_text:
            return
        for uri in sorted(uris):
            try:
                has_text = open_store(uri).has_text
            except RegardError:
                continue  # the retriever's own check reports an index that cannot be opened
            if not has_text:
                yield Problem(f"it reads passages' text, and {uri} stores none", "", "index again with text, or rerank without text")

    def _stores_above(self, name: str) -> set[str]:
        uris, seen, waiting = set(), {name}, [name]
        while waiting:
            node = self.nodes.get(waiting.pop())
            if node is None:
                continue
            if node.stage.store_uri:
                uris.add(node.stage.store_uri)
                continue
            new = {src for src, _ in node.sources} - seen
            seen |= new
            waiting += new
        return uris

    def _stages_above(self, name: str) -> dict[str, Stage]:
        """The stages that ``name`` gets something from, nearest first, directly or through others."""
        above: dict[str, Stage] = {}
        waiting = [src for src, _ in self.nodes[name].sources]
        while waiting:
            source = waiting.pop(0)
            if source in self.nodes and source not in above:
                above[source] = self.nodes[source].stage
                waiting += [src for src, _ in self.nodes[source].sources]
        return above

    # -- running ---------------------------------------------------------------------

    def open(self) -> Self:
        """Check, then load every stage's models now rather than at the first run."""
        with self._held() as executor:
            for name in executor.order:
                executor.ensure_open(name)
        return self

    def close(self) -> None:
        """Release every model, as soon as the runs under way have ended. The pipeline can run again; it will load them again.

        Raises ``PipelineError`` when one of its own runs asks for it.
        """
        with self._lock:
            executor = self._executor
            if executor is None:
                return
            if executor.around:
                raise PipelineError("a run cannot close the pipeline that it is a run of", where=self.name, hint="close it after the run")
            executor.retire()
            if executor.busy:
                self.nodes.update(self._copies())  # what runs from now on opens stages of its own
            self._adopt(None)
        executor.wait()

    def refresh(self) -> bool:
        """Go on to the newest version of the indexes that are open; whether there was one. Models stay loaded.

        Runs under way go on reading what they began with. Raises what opening a stage raises; the pipeline then stays as it was.
        """
        with self._refreshing:
            return self._refresh()

    def _refresh(self) -> bool:
        old = self._executor
        if old is None or not old.scope.superseded():
            return False
        nodes = self._copies()
        new = Executor(nodes, set(self.outputs.values()))
        try:
            new.open_as(old)
        except BaseException:
            new.retire()
            raise
        with self._lock:
            if self._executor is not old:  # it was closed or built on in the meantime
                new.retire()
                return False
            self.nodes.update(nodes)
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

    def _copies(self) -> dict[str, StageNode]:
        """The same stages, not opened."""
        return {name: StageNode(_named(node.stage.copy(), name), node.sources) for name, node in self.nodes.items()}

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
                    raise PipelineError("the pipeline cannot run:\n" + "\n".join(f"- {p}" for p in fatal), where=self.name)
                self._adopt(Executor(self.nodes, set(self.outputs.values())))
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
        """Run once. Give a value an input, in their order or by name: a query (or its text), or a list of them for a batch.

        Results do not depend on what else is in the batch. Errors carry the stage's name as a note.
        """
        batches, single = self._batches(values, named)
        if self.follow:
            self._follow()
        with self._held() as executor:
            computed, self.trace = executor.run(batches, self._stage_cache())
        outputs = {name: computed[node][0] if single else computed[node] for name, node in self.outputs.items()}
        return Result(outputs, self.trace)

    async def arun(self, *values: Any, **named: Any) -> Result:
        """``run`` in a thread of its own, however many others there are. Cancelling it stops the run at its next event."""
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
            raise QueryError(f"the inputs have different lengths: { {n: len(b) for n, b in batches.items()} }", where=self.name,
                             hint="give every input one value a query")
        return batches, single

    # -- files -----------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the pipeline as YAML. ``Pipeline.load`` gives it back exactly."""
        from .config import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, *, allow_keys: Sequence[str] = (), **settings: Any) -> Pipeline:
        """Read a YAML file. ``settings`` replace the setting of that name in every stage that has it (``index="other"``).

        ``allow_keys``: which keys the file may use where (``["llm.example.org=EXAMPLE_KEY"]``), beside what ``rag.trust`` lists.
        """
        from .config import load

        return load(path, settings, allow_keys)


def _named(stage: Stage, name: str) -> Stage:
    stage.name = name
    return stage


def _batch(value: Any, type: Any, name: str) -> Batch[Any]:
    if not isinstance(value, list | tuple):
        return Batch((_item(value, type, name, "q"),))
    return Batch(_item(v, type, name, f"q{i}") for i, v in enumerate(value, 1))


def _item(value: Any, type: Any, name: str, query_id: str) -> Any:
    if type is Query and isinstance(value, str):
        return Query(value, id=query_id)
    if not accepts(type, value):
        raise QueryError(f"input {name!r} takes {type_name(type)}, not {value.__class__.__name__}", where=f"value {value!r:.80}",
                         hint=f"pass a {type_name(type)}" + (" or its text" if type is Query else ""))
    return value


def _type_error(p: Pipeline, wire: Wire[Any], name: str, kind: str, port: Port, wanted: Sequence[Port]) -> PipelineError:
    from ..errors import PortTypeError

    source = p.nodes.get(wire.node)
    giver = f"stage {wire.node!r} ({type(source.stage).__name__})" if source else f"input {wire.node!r}"
    output = ports(type(source.stage)).output.name if source else wire.node
    fits = [q.name for q in wanted if meets(wire.type, q.type)]
    hint = f"connect something that gives Batch[{type_name(port.type)}]"
    if fits:
        hint = f"it would fit port {fits[0]!r}: check the order of the inputs"
    return PortTypeError(
        f"output {output!r} of {giver} is Batch[{type_name(wire.type)}], port {port.name!r} of stage {name!r} ({kind}) "
        f"takes Batch[{type_name(port.type)}]", where=p.name, hint=hint)
