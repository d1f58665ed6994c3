"""``regard schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...files import write_text
from .output import say

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: regard schema -o pipeline.schema.json, and in a pipeline file the first line "
                    "# yaml-language-server: $schema=pipeline.schema.json")
def schema(
    out: Annotated[Path | None, typer.Option(
        "-o", "--out", metavar="FILE.json", help="The file to write; without it the schema is printed.")] = None,
) -> None:
    """Write the JSON schema of pipeline files, made from what is installed: editors complete and check them with it."""
    from ...dag.config import schema as of_files

    text = json.dumps(of_files(), indent=2)
    if out is None:
        print(text)
        return
    write_text(out, text + "\n")
    say(f"wrote {out}")
