"""What the stages of one pipeline have in common while it is open: each index once, so that all of them see one version of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Scope:
    """Shares what is opened under a key, from its first use until the scope is closed. Safe to use from several threads."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    def share(self, key: Hashable, load: Callable[[], T]) -> T:
        """What was loaded under ``key``, loaded now if nothing was."""
        with self._lock:
            if key not in self._held:
                self._held[key] = load()
            held: T = self._held[key]
            return held

    def superseded(self) -> bool:
        """Whether something here would be another if it were opened now: it says so by a method ``superseded``."""
        with self._lock:
            held = list(self._held.values())
        return any(thing.superseded() for thing in held if hasattr(thing, "superseded"))

    def close(self) -> None:
        """Let go of all of it."""
        with self._lock:
            self._held.clear()


_current: ContextVar[Scope | None] = ContextVar("regard_scope", default=None)


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """``Scope.share`` of the scope that this is run in; outside of one, ``load()``."""
    scope = _current.get()
    return load() if scope is None else scope.share(key, load)


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Have :func:`shared` mean ``scope``."""
    token = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(token)
