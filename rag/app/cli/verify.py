"""``regard verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import IndexDir, Json
from .output import show

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard verify my-index · "
                    "regard verify my-index --repair && regard index docs/ --index my-index")
def verify(
    index: IndexDir,
    repair: Annotated[bool, typer.Option(
        "--repair", help="Build damaged views anew, and take out damaged documents.")] = False,
    as_json: Json = False,
) -> None:
    """Read an index whole and say what is damaged. Exits with 1 when something is, and was not repaired.

    --repair names the documents that it took out: index their sources again.
    """
    from ...tables import table
    from ..terminal.jobs import show_verified

    report = table("regard.jobs")["verify"](index, repair=repair)
    show(report, as_json, show_verified)
    if not report.ok:
        raise typer.Exit(1)
