"""One progress bar for long work: count, rate and time left; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]


@contextmanager
def progress_bar(what: str, total: int | None, unit: str, *, enabled: bool | None = None) -> Iterator[Advance]:
    """Show a bar on standard error; call the yielded function with (steps, note). ``enabled`` None: only on a terminal or in a notebook."""
    if enabled is None:
        enabled = sys.stderr.isatty() or "ipykernel" in sys.modules
    if not enabled:
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, rate="", note="")

        def advance(steps: int, note: str = "") -> None:
            progress.advance(task, steps)
            shown = progress.tasks[task]
            rate = shown.completed / shown.elapsed if shown.elapsed else 0.0
            progress.update(task, rate=f"{rate:,.1f} {unit}/s", note=note)

        yield advance


def _silent(steps: int, note: str = "") -> None:
    """Nobody watches."""
