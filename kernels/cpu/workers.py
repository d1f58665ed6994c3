"""Rows shared out among threads: numba's compiled loops run without Python's global lock.

Not numba's own threads (``prange``): its default threading layer ends the process when two threads of a program use it
at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

S = TypeVar("S")


def share_rows(rows: int, chunk: int, new_state: Callable[[], S], work: Callable[[S, int, int], None]) -> list[S]:
    """Call ``work(state, first, last)`` for consecutive chunks of ``range(rows)`` on torch's number of threads.

    Each thread has a state of its own, made by ``new_state``, and sees its chunks in ascending order; which thread gets
    which chunk is left to chance, so that a busy core delays nobody. Gives the states. Rows of one chunk are worked on
    by the caller alone.
    """
    starts = iter(range(0, rows, chunk))  # threads may share it: its step is one operation under Python's lock

    def run() -> S:
        state = new_state()
        for first in starts:
            work(state, first, min(first + chunk, rows))
        return state

    helpers = min(torch.get_num_threads(), -(-rows // chunk)) - 1
    if helpers <= 0:
        return [run()]
    futures = [_pool(helpers).submit(run) for _ in range(helpers)]
    states = [run()]
    # one that found no core until now has no work left
    return states + [future.result() for future in futures if not future.cancel()]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="regard-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process has none of its parent's threads
