"""``regard run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import AllowKey, IndexOption, Json, PipelineFile, Queries, Trust
from .output import print_json, say

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: regard init pipeline.yaml && regard run pipeline.yaml --index my-index "
                    "--queries queries.jsonl --out run.trec && regard eval run.trec --qrels qrels/test.tsv")
def run(
    file: PipelineFile,
    queries: Queries,
    out: Annotated[Path, typer.Option(help="The TREC run to write.")],
    index: IndexOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Queries in one batch.")] = 64,
    by: Annotated[Literal["document", "passage"], typer.Option(
        help="What the run ranks; a document by its best passage.")] = "document",
    cache: Annotated[Path | None, typer.Option(help="Keep deterministic stages' outputs in this folder.")] = None,
    answers: Annotated[Path | None, typer.Option(
        help="Also write the answers, as JSON lines, if the pipeline gives any.")] = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline over a file of queries and write a TREC run."""
    from ..batch import run_queries
    from .opening import load

    pipeline = load(file, index, allow_key, trust)
    summary = run_queries(pipeline, queries, out, batch=batch, by=by, cache=cache, answers=answers)
    if as_json:
        print_json(summary)
    else:
        say(f"{summary['queries']} queries in {summary['seconds']:.1f} s -> {out}")
