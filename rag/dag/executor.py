"""Runs a plan: in topological order, independent branches at the same time, opening a stage only when it must compute.

A chain runs in the caller's thread, so that one BM25 query pays microseconds, not a thread switch, for being a
pipeline. It is the executor that writes a stage's name into the history of the rankings that it gives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, NamedTuple, get_origin

from ..errors import ConfigError, StageError
from ..nouns import Batch, Query, Ranking
from .cache import Names, StageCache
from .plan import Plan, Ref, StageNode
from .ports import Ports, accepts, type_name
from .scope import Scope, entered
from .trace import Running, StageDone, StageStarted, StageTrace, Trace, emit, peak_memory, running, tracing

Values = dict[Ref, Batch[Any]]
Outputs = tuple[Batch[Any], ...]


class Place(NamedTuple):
    """Where a plan runs: inside which stage (its path, with a slash; empty at the top), which query of the run each of
    the batch is (None: the same one), and the run's cache."""

    prefix: str = ""
    positions: Sequence[int] | None = None
    cache: StageCache | None = None


TOP = Place()

_inside: ContextVar[frozenset[int]] = ContextVar("regard_executors", default=frozenset())
"""Which executors the present code is run by."""


class Executor:
    """The stages that a plan's outputs need, and what is open of them, in a scope of its own or in one that it is
    given.

    Each run holds it (``running``). Once retired it takes no further run, and closes when the last one ends.
    """

    def __init__(self, plan: Plan, scope: Scope | None = None) -> None:
        self.plan = plan
        self.order = plan.needed()
        self.scope = scope if scope is not None else Scope()
        self._owns_scope = scope is None
        self._opened: dict[str, tuple[Any, ...]] = {}
        self._runs = 0
        self._retired = False
        self._closed = threading.Event()
        self._life = threading.Lock()
        self._locks = {name: threading.Lock() for name in self.order}
        self._fingerprints: dict[str, str] = {}  # of open stages: they go on reading what they opened
        self._ports = {name: plan.nodes[name].stage.ports() for name in self.order}
        self._threads: ThreadPoolExecutor | None = None

    def ensure_open(self, name: str) -> float:
        """Open a stage once; the seconds that took."""
        if name in self._opened:
            return 0.0
        with self._locks[name]:
            if name in self._opened:
                return 0.0
            start, stage = time.perf_counter(), self.plan.nodes[name].stage
            with entered(self.scope):
                self._opened[name] = (self.scope.open(stage),) if stage.opens() else ()
            return time.perf_counter() - start

    def open_as(self, other: Executor) -> None:
        """Open the stages that are open in ``other``."""
        for name in self.order:
            if name in other._opened:
                self.ensure_open(name)

    # -- its life ------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Hold it for the block; False (and nothing held) when it is retired."""
        with self._life:
            held = not self._retired
            self._runs += held
        token = _inside.set(_inside.get() | {id(self)})
        try:
            yield held
        finally:
            _inside.reset(token)
            if held:
                with self._life:
                    self._runs -= 1
                    last = self._retired and not self._runs
                if last:
                    self._close()

    @property
    def around(self) -> bool:
        """Whether it runs the code that asks."""
        return id(self) in _inside.get()

    def retire(self) -> None:
        """Take no further run; close when those under way have ended."""
        with self._life:
            first, self._retired = not self._retired, True
            idle = not self._runs
        if first and idle:
            self._close()

    def wait(self) -> None:
        """Until it is closed."""
        self._closed.wait()

    def _close(self) -> None:
        try:
            if self._owns_scope:
                self.scope.close()
        finally:
            self._opened.clear()
            self._fingerprints.clear()
            if self._threads:
                self._threads.shutdown(wait=False)
                self._threads = None
            self._closed.set()

    # -- running -------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Batch[Any]], place: Place = TOP) -> tuple[Values, Trace]:
        """All values, and the trace."""
        start = time.perf_counter()
        values: Values = {Ref(name): batch for name, batch in inputs.items()}
        traces: dict[str, list[StageTrace]] = {}
        waiting = {name: {ref.node for ref, _ in self.plan.nodes[name].sources if ref.node in self._ports}
                   for name in self.order}
        under_way: dict[Future[tuple[Outputs, list[StageTrace]]], str] = {}
        try:
            while waiting or under_way:
                ready = [name for name, missing in waiting.items() if not missing]
                for name in ready:
                    del waiting[name]
                if len(ready) == 1 and not under_way:
                    finished = {ready[0]: self._step(ready[0], values, place)}
                else:
                    for name in ready:
                        under_way[self._pool().submit(copy_context().run, self._step, name, values, place)] = name
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    finished = {under_way.pop(future): future.result() for future in done}
                for name, (outputs, entries) in finished.items():
                    traces[name] = entries
                    for port, batch in zip(self._ports[name].outputs, outputs, strict=True):
                        values[Ref(name, port.name if self._ports[name].bundle else "")] = batch
                    for missing in waiting.values():
                        missing.discard(name)
        finally:
            wait(under_way)  # a failed branch waits for its neighbours: no stage runs on after run() has returned
        return values, Trace([entry for name in self.order for entry in traces[name]], time.perf_counter() - start)

    def _pool(self) -> ThreadPoolExecutor:
        with self._life:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(max_workers=max(2, len(self.order)), thread_name_prefix="regard")
            return self._threads

    def _step(self, name: str, values: Values, place: Place) -> tuple[Outputs, list[StageTrace]]:
        node, path = self.plan.nodes[name], place.prefix + name
        arguments = [values[ref] for ref, _ in node.sources]
        entry = StageTrace(path, type(node.stage).__name__, queries=len(arguments[0]),
                           candidates_in=_candidates(arguments))
        now = Running(entry, place.positions, place.cache)
        emit(StageStarted(path))
        try:
            with tracing(now), entered(self.scope):
                call = _Call(name, path, node, arguments, now)
                outputs = self._cached(call, place.cache) if place.cache else self._compute(call)
        except Exception as error:
            error.add_note(f"in stage {path!r} ({type(node.stage).__name__})")
            raise
        if node.stage.marks:
            outputs = tuple(_marked(batch, path) for batch in outputs)
        entry.candidates_out = _candidates(outputs)
        entry.peak_memory = peak_memory()
        emit(StageDone(path, entry))
        return outputs, [entry, *now.within]

    def _compute(self, call: _Call) -> Outputs:
        ports = self._ports[call.name]
        size = len(call.arguments[0])
        if not size:
            return tuple(Batch() for _ in ports.outputs)
        stage: Any = call.node.stage
        call.now.entry.open_seconds += self.ensure_open(call.name)
        contents = [_contents(value) for batch in call.arguments for value in batch]
        start = time.perf_counter()
        try:
            output = stage.run(*self._opened[call.name], *_by_port(call, ports))
        except (FrozenInstanceError, TypeError, ValueError) as error:
            if isinstance(error, FrozenInstanceError) or any(said in str(error) for said in _REFUSED_WRITES):
                raise _changed(call.path, str(error)) from error
            raise
        call.now.entry.seconds += time.perf_counter() - start
        if contents != [_contents(value) for batch in call.arguments for value in batch]:
            raise _changed(call.path, "what it holds is another than before")
        return _expected(ports, output, size, call.path)

    def _cached(self, call: _Call, cache: StageCache) -> Outputs:
        """Look up each query by itself, compute the rest as one batch."""
        stage, ports = call.node.stage, self._ports[call.name]
        kind = get_origin(ports.outputs[0].type) or ports.outputs[0].type
        if ports.bundle or not stage.marks or not stage.deterministic or not cache.keeps(kind):
            return self._compute(call)
        names = [Names(items, call.path) for items in zip(*call.arguments, strict=True)]
        try:
            fingerprint = self._fingerprint(call.name)
            keys = [cache.key(fingerprint, named.inputs) for named in names]
        except ConfigError:  # something that cannot be told from others: it costs the cache, not the run
            return self._compute(call)
        found = [cache.get(key, kind) for key in keys]
        missing = [i for i, value in enumerate(found) if value is None]
        if missing:
            call.now.entry.open_seconds += self.ensure_open(call.name)
            if self._fingerprint(call.name) != fingerprint:  # what it opened is newer than what was looked up
                return self._cached(call, cache)
        call.now.entry.cache_hits = len(keys) - len(missing)
        found = [None if value is None else named.restored(value) for named, value in zip(names, found, strict=True)]
        (computed,) = self._compute(call.of(missing))
        for i, value in zip(missing, computed, strict=True):
            if type(value) is kind:  # a subclass would come back as its parent
                cache.put(keys[i], names[i].removed(value))
            found[i] = value
        return (Batch(found),)

    def _fingerprint(self, name: str) -> str:
        """Of what the stage has opened, or of what it would open now."""
        with self._locks[name], entered(self.scope):
            if name not in self._opened:
                return self.plan.nodes[name].stage.fingerprint()
            if name not in self._fingerprints:
                self._fingerprints[name] = self.plan.nodes[name].stage.fingerprint()
            return self._fingerprints[name]


@dataclass(slots=True)
class _Call:
    """A stage to be run on ``arguments``, in the order of its sources."""

    name: str
    path: str
    node: StageNode
    arguments: list[Batch[Any]]
    now: Running

    def of(self, positions: Sequence[int]) -> _Call:
        """The same for some of the queries."""
        before = self.now.positions
        self.now.positions = list(positions) if before is None else [before[i] for i in positions]
        return _Call(self.name, self.path, self.node, [Batch(a[i] for i in positions) for a in self.arguments],
                     self.now)


class OpenPlan:
    """A plan inside a stage, run by the same rules, in the same scope: its stages' entries stand under the stage's own
    in the trace."""

    def __init__(self, plan: Plan, scope: Scope) -> None:
        self._executor = Executor(plan, scope)
        scope.callback(self._executor.retire)

    def run(self, inputs: Mapping[str, Batch[Any]], under: str = "",
            positions: Sequence[int] | None = None) -> dict[str, Batch[Any]]:
        """The outputs by name. ``under`` is added to the path of its stages; ``positions``: which query of the stage's
        own batch each of ``inputs`` is (None: the same one)."""
        now = running()
        if now is None:  # the stage is tried alone
            now = Running(StageTrace("", ""))
        if positions is not None and now.positions is not None:
            positions = [now.positions[i] for i in positions]
        prefix = "/".join(name for name in (now.entry.stage, under) if name)
        place = Place(prefix and prefix + "/", positions if positions is not None else now.positions, now.cache)
        values, trace = self._executor.run(inputs, place)
        now.within += trace.stages
        return {name: values[ref] for name, ref in self._executor.plan.outputs.items()}


_REFUSED_WRITES = ("destination is read-only", "array is read-only", "'Batch' object does not support item assignment")
"""What Python and numpy say where a value cannot be written to."""


def _contents(value: Any) -> Any:
    """What of ``value`` a stage could change in place, to see whether it did: other stages read the same object. Arrays
    of nouns cannot be written to, and of a container only its own members are looked at."""
    kind = type(value)
    if kind is Query:
        return repr(value.filters), repr(value.metadata)
    if kind is Ranking:
        return [*value.evidence, *map(id, value.evidence.values())] if value.evidence else ()
    if kind is list or kind is set:
        return list(map(id, value))
    return [*value, *map(id, value.values())] if kind is dict else ()


def _changed(path: str, how: str) -> StageError:
    return StageError(f"run changed what it was given: {how}", where=f"stage {path!r}",
                      hint="other stages read it too: make another (query.derive, dataclasses.replace, array.copy())")


def _by_port(call: _Call, ports: Ports) -> Iterator[Batch[Any] | None]:
    """The arguments in the order of ``run``'s parameters; None for an optional one that is left out."""
    wanted = [port for port in ports.inputs if not port.variadic]
    given = [(port.name, argument) for (_, port), argument in zip(call.node.sources, call.arguments, strict=True)]
    named = dict(given)
    last = max((i for i, port in enumerate(wanted) if port.name in named), default=-1)
    yield from (named.get(port.name) for port in wanted[:last + 1])
    plain = {port.name for port in wanted}
    yield from (argument for name, argument in given if name not in plain)


def _expected(ports: Ports, output: Any, size: int, path: str) -> Outputs:
    """Raise ``StageError`` unless ``output`` is what the stage's ports promise."""
    if ports.bundle is None:
        outputs: Any = (output,)
    elif isinstance(output, ports.bundle):
        outputs = tuple(output)
    else:
        raise StageError(f"run gave {type(output).__name__}, and its annotation says {ports.bundle.__name__}",
                         where=f"stage {path!r}",
                         hint="return what run's annotation names, or change the annotation")
    for port, batch in zip(ports.outputs, outputs, strict=True):
        if not isinstance(batch, Batch) or len(batch) != size:
            got = f"a batch of {len(batch)}" if isinstance(batch, Batch) else type(batch).__name__
            raise StageError(f"run gave {got} for a batch of {size}", where=f"stage {path!r}",
                             hint="run returns a Batch with one value a query, in the queries' order")
        for i, value in enumerate(batch):
            if not accepts(port.type, value):
                raise StageError(f"run gave {type(value).__name__} for query {i + 1} of {size}, and its port says "
                                 f"Batch[{type_name(port.type)}]", where=f"stage {path!r}",
                                 hint="return what run's annotation names, or change the annotation")
    return outputs  # type: ignore[no-any-return]  # that they are batches was just looked at


def _marked(batch: Batch[Any], path: str) -> Batch[Any]:
    return Batch(value.marked(path) if isinstance(value, Ranking) else value for value in batch)


def _candidates(batches: Sequence[Batch[Any]]) -> int:
    return sum(len(value) for batch in batches for value in batch if isinstance(value, Ranking))
