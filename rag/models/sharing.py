"""One object for all that name the same model: ``acquire`` loads it for the first, ``release`` frees it after the
last."""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    value: Any
    users: int


_pool: dict[Hashable, _Held] = {}
_pool_lock = threading.RLock()  # collecting a forgotten pipeline releases its models, wherever this thread is
_loading: dict[Hashable, threading.Lock] = {}


def acquire(key: Hashable, load: Callable[[], T]) -> T:
    """The object shared under ``key``, loaded by the first caller. Each call is paired with one :func:`release`."""
    with _pool_lock:
        lock = _loading.setdefault(key, threading.Lock())
    with lock:
        held = _pool.get(key)
        _import_tqdm_quietly()
        value: T = held.value if held else load()
        with _pool_lock:
            held = _pool.setdefault(key, _Held(value, 0))
            held.users += 1
        return value


@functools.cache
def _import_tqdm_quietly() -> None:
    """What loads models imports ``tqdm.auto``, which fills a notebook without ipywidgets with a warning about bars of
    its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")


def release(key: Hashable) -> None:
    """Give back what :func:`acquire` gave; the last user frees it."""
    with _pool_lock:
        held = _pool.get(key)
        if held is None:
            return
        held.users -= 1
        if held.users <= 0:
            del _pool[key]
