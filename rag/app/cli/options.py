"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
IndexDir = Annotated[Path, typer.Argument(
    metavar="DIR", help="An index folder, made by `regard index`.", show_default=False)]
IndexOption = Annotated[Path | None, typer.Option("--index", help="The index for every stage that takes one.")]
PipelineFile = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A pipeline file.", show_default=False)]
OtherPipeline = Annotated[
    Path | None, typer.Option("--pipeline", metavar="FILE.yaml", help="A pipeline file instead of the default.")]
Purge = Annotated[bool, typer.Option(
    "--purge", help="Leave no byte of deleted documents in the folder: all older versions go, or it is refused, naming "
                    "the tag or the reader that still uses one. It cannot reach stage caches and other files "
                    "elsewhere, backups, file system snapshots, or freed blocks of the disk.")]
Wait = Annotated[float, typer.Option(
    min=0, metavar="SECONDS", help="With --purge: give open readers so long to close.")]
AllowKey = Annotated[list[str] | None, typer.Option(
    "--allow-key", metavar="HOST=VAR",
    help="Let the file send the key in this environment variable to this server; again for more.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load the models that an index from others names.")]
Filters = Annotated[list[str] | None, typer.Option(
    "--filter", metavar="FIELD=VALUE", help="Only passages with this metadata.")]
Queries = Annotated[Path, typer.Option("--queries", help="Queries: JSON lines with _id (or id) and text.")]
QrelsFile = Annotated[Path, typer.Option("--qrels", help="Relevance judgments: TREC's four columns or BEIR's three.")]
