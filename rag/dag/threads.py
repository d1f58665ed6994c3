"""Blocking work for asynchronous callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """What ``function`` gives, called in a thread of its own, in a copy of this context.

    ``asyncio.to_thread`` has some four threads more than there are cores, which all callers share: what waits for one
    another there may wait for ever. A thread takes a twentieth of a millisecond to start.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(settled: Callable[[Any], None], value: Any) -> None:
        if not answer.done():  # nobody waits for what was cancelled
            settled(value)

    def work() -> None:
        try:
            done: tuple[Callable[[Any], None], Any] = answer.set_result, context.run(function, *arguments)
        except StopIteration:  # which no future takes
            done = answer.set_exception, RuntimeError(f"{function!r} raised StopIteration")
        except BaseException as error:
            done = answer.set_exception, error
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(settle, *done)

    threading.Thread(target=work, name="regard-async", daemon=True).start()
    return await answer
