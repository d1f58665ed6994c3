"""``regard graph``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError
from ...files import write_text
from .options import PipelineFile
from .output import say

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: regard graph pipeline.yaml -o pipeline.svg")
def graph(
    file: PipelineFile,
    out: Annotated[Path | None, typer.Option(
        "-o", "--out", metavar="FILE.svg", help="SVG or .mmd (Mermaid); without it Mermaid is printed.")] = None,
) -> None:
    """Draw a pipeline, with no network and no browser."""
    from .opening import load

    pipeline = load(file, None)
    if out is None:
        say(pipeline.to_mermaid())
        return
    if out.suffix not in (".svg", ".mmd", ".md"):
        raise ConfigError(f"cannot draw a {out.suffix or 'file without ending'}", where=str(out),
                          hint="use .svg or .mmd")
    write_text(out, pipeline.to_svg() if out.suffix == ".svg" else pipeline.to_mermaid())
    say(f"wrote {out}")
