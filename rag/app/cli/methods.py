"""``regard methods``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard methods · regard methods regard.stages regard.encoders --json")
def methods(
    groups: Annotated[list[str] | None, typer.Argument(
        metavar="TABLE...", show_default=False, help="Only these tables, such as regard.stages. None: all.")] = None,
    as_json: Json = False,
) -> None:
    """What can be named in a pipeline or an index: every table's entries, with their papers. A broken one is shown as
    broken."""
    from ..methods import methods as listed

    found = listed(*groups or ())
    if as_json:
        print_json([method.to_dict() for method in found])
    else:
        from ..terminal.methods import show_methods

        show_methods(found)
