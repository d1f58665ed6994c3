"""``regard compact``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import IndexDir, Json, Purge, Wait
from .output import show

_KEEP = ("Newest versions to keep. Those with a tag, and those that an open reader on this machine uses, stay as well.")

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard compact my-index · regard compact my-index --keep 3 · "
                    "regard compact my-index --purge --wait 30")
def compact(
    index: IndexDir,
    keep: Annotated[int, typer.Option(min=1, help=_KEEP)] = 1,
    purge: Purge = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Write small and partly deleted files together, and remove older versions and what dead jobs left."""
    from ...tables import table
    from ..terminal.jobs import show_compaction

    report = table("regard.jobs")["compact"](index, keep=keep, purge=purge, wait=wait)
    show(report, as_json, show_compaction)
