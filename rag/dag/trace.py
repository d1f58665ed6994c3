"""What a run did: one ``StageTrace`` a stage, and the events that a stream yields.

A stage reports what only it knows with :func:`record` (tokens) and :func:`emit_text` (text as it is generated); both do
nothing outside a run. The executor adds time, candidates, cache hits and memory. A stage inside another has its path
for a name: ``hop/2/rerank``.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from ..nouns import data_frame
from ..tables import html


@dataclass(slots=True)
class StageTrace:
    """One stage of one run. Times in seconds, memory in bytes (the process's peak up to the stage's end)."""

    stage: str
    kind: str
    queries: int = 0
    seconds: float = 0.0
    open_seconds: float = 0.0
    candidates_in: int = 0
    candidates_out: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cache_hits: int = 0
    peak_memory: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """A run: its stages in topological order and its wall time."""

    stages: list[StageTrace] = field(default_factory=list)
    seconds: float = 0.0

    def __getitem__(self, stage: str) -> StageTrace:
        for entry in self.stages:
            if entry.stage == stage:
                return entry
        raise KeyError(stage)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, a row a stage. Raises ``MissingDependency`` where pandas is not installed."""
        return data_frame(map(asdict, self.stages), StageTrace.__slots__)

    def _repr_html_(self) -> str:
        return html(self)


@dataclass(frozen=True, slots=True)
class StageStarted:
    stage: str


@dataclass(frozen=True, slots=True)
class StageDone:
    stage: str
    trace: StageTrace


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of text that a reader just generated for query number ``query`` of the batch."""

    stage: str
    query: int
    text: str


Event = StageStarted | StageDone | TextDelta

@dataclass(slots=True)
class Running:
    """A stage that runs now: its ``entry``, those of the stages ``within`` it, which query of the run each of its own
    is (None: the same one), and the ``cache`` of the run."""

    entry: StageTrace
    positions: Sequence[int] | None = None
    cache: Any = None
    within: list[StageTrace] = field(default_factory=list)


_running: ContextVar[Running | None] = ContextVar("regard_running", default=None)
_sink: ContextVar[Callable[[Event], None] | None] = ContextVar("regard_event_sink", default=None)


def record(*, tokens_in: int = 0, tokens_out: int = 0, **notes: Any) -> None:
    """Add to the running stage's trace: token counts, and anything else as notes; notes that are whole numbers add
    up."""
    now = _running.get()
    if now is None:
        return
    entry = now.entry
    entry.tokens_in += tokens_in
    entry.tokens_out += tokens_out
    for name, note in notes.items():
        counted = isinstance(note, int) and not isinstance(note, bool)
        entry.notes[name] = entry.notes.get(name, 0) + note if counted else note


def record_kernels(paths: Mapping[str, str]) -> None:
    """Note which path each kernel took, as ``kernels.dispatch.taken`` gave it."""
    record(kernels=", ".join(f"{kernel}: {path}" for kernel, path in sorted(paths.items())))


def emit(event: Event) -> None:
    """Hand an event to whoever streams this run."""
    sink = _sink.get()
    if sink is not None:
        sink(event)


def emit_text(query: int, text: str) -> None:
    """Hand a piece of generated text to whoever streams this run; ``query`` is its position in the stage's own
    batch."""
    now = _running.get()
    if _sink.get() is not None and now is not None:
        emit(TextDelta(now.entry.stage, query if now.positions is None else now.positions[query], text))


def running() -> Running | None:
    """The stage that the present code is run by."""
    return _running.get()


@contextmanager
def tracing(now: Running) -> Iterator[Running]:
    """Make ``now`` the one that :func:`record` writes to."""
    token = _running.set(now)
    try:
        yield now
    finally:
        _running.reset(token)


@contextmanager
def listening(sink: Callable[[Event], None]) -> Iterator[None]:
    """Send every :func:`emit` to ``sink``."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


def peak_memory() -> int:
    """The process's peak resident memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
