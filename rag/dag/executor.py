"""Runs a DAG: in topological order, independent branches at the same time, opening a stage only when it must compute.

A chain runs in the caller's thread, so that one BM25 query pays microseconds, not a thread switch, for being a pipeline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, StageError
from ..nouns import Batch, Ranking
from .cache import StageCache
from .ports import accepts, ports, type_name
from .scope import Scope, entered
from .trace import StageDone, StageStarted, StageTrace, Trace, emit, peak_memory, tracing

if TYPE_CHECKING:
    from .pipeline import StageNode

Values = dict[str, Batch[Any]]


_inside: ContextVar[frozenset[int]] = ContextVar("regard_executors", default=frozenset())
"""Which executors the present code is run by."""


class Executor:
    """The stages that ``outputs`` need, and what is open of them.

    Each run holds it (``running``). Once retired it takes no further run, and closes its stages when the last one ends.
    """

    def __init__(self, nodes: Mapping[str, StageNode], outputs: set[str]) -> None:
        self._nodes = dict(nodes)
        needed = _needed(nodes, outputs)
        self.order = [name for name in nodes if name in needed]
        self.scope = Scope()
        self._open: set[str] = set()
        self._runs = 0
        self._retired = False
        self._closed = threading.Event()
        self._life = threading.Lock()
        self._locks = {name: threading.Lock() for name in self.order}
        self._fingerprints: dict[str, str] = {}  # of open stages: they go on reading what they opened
        self._gives = {name: ports(type(nodes[name].stage)).output.type for name in self.order}
        self._threads: ThreadPoolExecutor | None = None

    def ensure_open(self, name: str) -> float:
        """Open a stage once; the seconds that took."""
        if name in self._open:
            return 0.0
        with self._locks[name]:
            if name in self._open:
                return 0.0
            start = time.perf_counter()
            with entered(self.scope):
                self._nodes[name].stage.open()
            self._open.add(name)
            return time.perf_counter() - start

    def open_as(self, other: Executor) -> None:
        """Open the stages that are open in ``other``."""
        for name in self.order:
            if name in other._open:
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
    def busy(self) -> bool:
        """Whether a run is under way."""
        with self._life:
            return self._runs > 0

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
            for name in self.order:  # all of them: one that only gave its fingerprint may hold its index
                self._nodes[name].stage.close()
        finally:
            self._open.clear()
            self._fingerprints.clear()
            self.scope.close()
            if self._threads:
                self._threads.shutdown(wait=False)
                self._threads = None
            self._closed.set()

    def run(self, inputs: Values, cache: StageCache | None = None) -> tuple[Values, Trace]:
        """All values by node name, and the trace."""
        start = time.perf_counter()
        values: Values = dict(inputs)
        traces: dict[str, StageTrace] = {}
        waiting = {name: {src for src, _ in self._nodes[name].sources if src not in values} for name in self.order}
        running: dict[Future[tuple[Batch[Any], StageTrace]], str] = {}
        try:
            while waiting or running:
                ready = [name for name, missing in waiting.items() if not missing]
                for name in ready:
                    del waiting[name]
                if len(ready) == 1 and not running:
                    finished = {ready[0]: self._step(ready[0], values, cache)}
                else:
                    for name in ready:
                        running[self._pool().submit(copy_context().run, self._step, name, values, cache)] = name
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    finished = {running.pop(future): future.result() for future in done}
                for name, (value, trace) in finished.items():
                    values[name], traces[name] = value, trace
                    for missing in waiting.values():
                        missing.discard(name)
        finally:
            wait(running)  # a failed branch waits for its neighbours: no stage runs on after run() has returned
        return values, Trace([traces[name] for name in self.order], time.perf_counter() - start)

    def _pool(self) -> ThreadPoolExecutor:
        with self._life:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(max_workers=max(2, len(self.order)), thread_name_prefix="regard")
            return self._threads

    def _step(self, name: str, values: Values, cache: StageCache | None) -> tuple[Batch[Any], StageTrace]:
        node = self._nodes[name]
        arguments = [values[src] for src, _ in node.sources]
        trace = StageTrace(name, type(node.stage).__name__, queries=len(arguments[0]), candidates_in=_candidates(arguments))
        emit(StageStarted(name))
        try:
            with tracing(trace), entered(self.scope):
                output = self._cached(name, arguments, trace, cache) if cache else self._compute(name, arguments, trace)
        except Exception as error:
            error.add_note(f"in stage {name!r} ({type(node.stage).__name__})")
            raise
        trace.candidates_out = _candidates([output])
        trace.peak_memory = peak_memory()
        emit(StageDone(name, trace))
        return output, trace

    def _compute(self, name: str, arguments: Sequence[Batch[Any]], trace: StageTrace) -> Batch[Any]:
        if not len(arguments[0]):
            return Batch()
        stage: Any = self._nodes[name].stage
        trace.open_seconds += self.ensure_open(name)
        start = time.perf_counter()
        output = stage.run(*arguments)
        trace.seconds += time.perf_counter() - start
        self._expect_batch(name, output, len(arguments[0]))
        return output  # type: ignore[no-any-return]  # that it is one was just looked at

    def _expect_batch(self, name: str, output: Any, size: int) -> None:
        """Raise ``StageError`` unless ``output`` is what the stage's port promises."""
        if not isinstance(output, Batch) or len(output) != size:
            got = f"a batch of {len(output)}" if isinstance(output, Batch) else type(output).__name__
            raise StageError(f"run gave {got} for a batch of {size}", where=f"stage {name!r}",
                             hint="run returns a Batch with one value a query, in the queries' order")
        kind = self._gives[name]
        for i, value in enumerate(output):
            if not accepts(kind, value):
                raise StageError(f"run gave {type(value).__name__} for query {i + 1} of {size}, and its port says "
                                 f"Batch[{type_name(kind)}]", where=f"stage {name!r}",
                                 hint="return what run's annotation names, or change the annotation")

    def _cached(self, name: str, arguments: Sequence[Batch[Any]], trace: StageTrace, cache: StageCache) -> Batch[Any]:
        """Look up each query by itself, compute the rest as one batch."""
        if not self._nodes[name].stage.deterministic or not cache.keeps(self._gives[name]):
            return self._compute(name, arguments, trace)
        fingerprint = self._fingerprint(name)
        try:
            keys = [cache.key(fingerprint, items) for items in zip(*arguments, strict=True)]
        except ConfigError:  # an input holds something that cannot be told from others: it costs the cache, not the run
            return self._compute(name, arguments, trace)
        found = [cache.get(key, self._gives[name]) for key in keys]
        missing = [i for i, value in enumerate(found) if value is None]
        if missing:
            trace.open_seconds += self.ensure_open(name)
            if self._fingerprint(name) != fingerprint:  # what it opened is newer than what was looked up
                return self._cached(name, arguments, trace, cache)
        trace.cache_hits = len(keys) - len(missing)
        computed = self._compute(name, [Batch(a[i] for i in missing) for a in arguments], trace)
        for i, value in zip(missing, computed, strict=True):
            if type(value) is self._gives[name]:  # a subclass would come back as its parent
                cache.put(keys[i], value)
            found[i] = value
        return Batch(found)

    def _fingerprint(self, name: str) -> str:
        """Of what the stage has opened, or of what it would open now."""
        with self._locks[name], entered(self.scope):
            if name not in self._open:
                return self._nodes[name].stage.fingerprint()
            if name not in self._fingerprints:
                self._fingerprints[name] = self._nodes[name].stage.fingerprint()
            return self._fingerprints[name]


def _needed(nodes: Mapping[str, StageNode], outputs: set[str]) -> set[str]:
    needed: set[str] = set()
    stack = [name for name in outputs if name in nodes]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [src for src, _ in nodes[name].sources if src in nodes]
    return needed


def _candidates(batches: Sequence[Batch[Any]]) -> int:
    return sum(len(value) for batch in batches for value in batch if isinstance(value, Ranking))
