"""One progress bar for long work: count, rate and time left; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .markup import one_line

Advance = Callable[[int, str], None]


@contextmanager
def progress_bar(what: str, total: int | None, unit: str, *, enabled: bool | None = None) -> Iterator[Advance]:
    """Show a bar on standard error; call the yielded function with (steps, note). ``enabled`` None: only on a terminal
    or in a notebook."""
    if enabled is None:
        enabled = sys.stderr.isatty() or "ipykernel" in sys.modules
    if not enabled:
        yield _silent
        return
    from tqdm import tqdm  # the plain one: it needs no widgets in a notebook

    with tqdm(total=total, desc=one_line(what), unit=f" {unit}", file=sys.stderr, dynamic_ncols=True) as bar:

        def advance(steps: int, note: str = "") -> None:
            bar.set_postfix_str(one_line(note), refresh=False)
            bar.update(steps)

        yield advance


def _silent(steps: int, note: str = "") -> None:
    """Nobody watches."""
