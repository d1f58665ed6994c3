"""``regard init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from .output import say

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard init · regard init hybrid.yaml --index my-index --no-answer")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The file to write.")] = Path("pipeline.yaml"),
    index: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Name this index in it; else the file runs with --index.")] = None,
    answer: Annotated[bool, typer.Option(help="With the stage that answers, or the search alone.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the default pipeline as a YAML file, to change and to run: the stages that `regard search` and `regard ask`
    run."""
    if file.exists() and not force:
        raise ConfigError("the file is there already", where=str(file), hint="name another, or replace it with --force")
    from ..presets import default_pipeline

    default_pipeline(index, answer=answer).save(file)
    say(f"wrote {file}; next: regard check {file}" + ("" if index else " --index my-index"))
