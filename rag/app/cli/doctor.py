"""``regard doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard doctor --json · regard doctor --index my-index")
def doctor(
    index: Annotated[Path | None, typer.Option(
        "--index", metavar="DIR", help="Also say whether this index's views fit the disk.")] = None,
    as_json: Json = False,
) -> None:
    """What is installed, which device each stage would use, which embedded models are here, and what to install."""
    from ..doctor import examine

    findings = examine(index)
    if as_json:
        print_json(findings)
    else:
        from ..terminal.doctor import show_doctor

        show_doctor(findings)
