"""``regard verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import IndexDir, Json
from .output import print_json

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

    report = table("regard.jobs")["verify"](index, repair=repair)
    if as_json:
        print_json(report.to_dict())
    else:
        from ..terminal.jobs import show_verified

        show_verified(report)
    if not report.ok:
        raise typer.Exit(1)
