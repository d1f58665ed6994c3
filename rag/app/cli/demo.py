"""``regard demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard demo · regard demo --out /tmp/demo --ask 'How do I copy a file?'")
def demo(
    out: Annotated[Path, typer.Option(help="Where the index and the report go.")] = Path("regard-demo"),
    question: Annotated[list[str] | None, typer.Option(
        "--ask", help="Ask this instead of the demo's own; again for more.")] = None,
    as_json: Json = False,
) -> None:
    """Index the standard library's docstrings, ask questions, show cited answers, and write an HTML report."""
    from ..demo import run_demo

    shown = run_demo(out, question, quiet=as_json)
    if as_json:
        print_json(shown.to_dict())
