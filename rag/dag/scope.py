"""What a run has open: each thing once for all stages, and closed in one place.

A stage is a value; what it opens belongs to the scope of the pipeline that runs it. Each index is opened once there, so
that all stages see one version of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Opens(Protocol[R_co]):
    """A part that opens something."""

    def open(self, scope: Scope, /) -> R_co: ...


class Scope:
    """Holds what is opened in it until it is closed. Safe to use from several threads."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Any] = {}
        self._closing = ExitStack()
        self._lock = threading.RLock()

    def share(self, key: Hashable, load: Callable[[], T]) -> T:
        """What was loaded under ``key``, loaded now if nothing was."""
        with self._lock:
            if key not in self._held:
                self._held[key] = load()
            held: T = self._held[key]
            return held

    def held(self, key: Hashable) -> Any | None:
        """What was loaded under ``key``, if anything was."""
        with self._lock:
            return self._held.get(key)

    def open(self, part: Opens[T]) -> T:
        """What ``part`` opens; equal parts open once."""
        return self.share(("part", part), lambda: part.open(self))

    def callback(self, close: Callable[..., Any], *arguments: Any) -> None:
        """Call ``close(*arguments)`` when the scope closes; the last one first."""
        with self._lock:
            self._closing.callback(close, *arguments)

    def superseded(self) -> bool:
        """Whether something here would be another if it were opened now: it says so by a method ``superseded``."""
        with self._lock:
            held = list(self._held.values())
        return any(thing.superseded() for thing in held if hasattr(thing, "superseded"))

    def close(self) -> None:
        """Let go of all of it."""
        with self._lock:
            self._held.clear()
            self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_current: ContextVar[Scope | None] = ContextVar("regard_scope", default=None)


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """``Scope.share`` of the scope that this is run in; outside of one, ``load()``."""
    scope = _current.get()
    return load() if scope is None else scope.share(key, load)


def held(key: Hashable) -> Any | None:
    """``Scope.held`` of the scope that this is run in; outside of one, None."""
    scope = _current.get()
    return None if scope is None else scope.held(key)


@contextmanager
def entered(scope: Scope) -> Iterator[Scope]:
    """Have :func:`shared` mean ``scope``."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
