"""``regard check``."""

from __future__ import annotations

import typer

from .options import AllowKey, IndexOption, Json, PipelineFile, Trust
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: regard init pipeline.yaml && regard check pipeline.yaml --index my-index")
def check(
    file: PipelineFile,
    index: IndexOption = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong with a pipeline before any model is loaded, and list the servers and keys that it would use.

    Exits with 1 when it cannot run.
    """
    from dataclasses import asdict

    from .opening import load

    pipeline = load(file, index, allow_key, trust)
    problems = pipeline.check()
    connections = pipeline.connections()
    if as_json:
        print_json({
            "file": str(file), "ok": not any(p.fatal for p in problems), "problems": [asdict(p) for p in problems],
            "connections": [{"stage": stage, **asdict(c), "allowed": not c.refused}
                            for stage, used in connections.items() for c in used],
        })
    else:
        from ..terminal.checks import show_connections, show_problems

        show_connections(connections)
        show_problems(str(file), problems)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(1)
