"""``regard index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Trust
from .output import say, show

_FORMAT = "auto, folder, jsonl, beir, trec, parquet or python."
_ENCODER = ("Dense encoder: minilm, bge-small, a folder, a Hugging Face id, or none. auto: the index's own, minilm "
            "for a new index.")
_CHUNKER = ("whole, sentences:200,overlap=40, tokens:128,overlap=16 or markdown:300. auto: the index's own, sentences "
            "for a new index.")
_VIEW = "bm25, flat, hnsw:m=32, ivf:lists=256 or attention:MODEL; give it again for more. Default: flat and bm25."
_LIMITS = (
    "A limit on what is read; what goes over it is skipped and counted. Give it again for more. Defaults: "
    "record_bytes=16M (a line, a row), file_bytes=256M, decompressed_bytes=1T, decompressed_ratio=200, "
    "document_characters=16M, stored_characters=64M, passage_characters=1M, metadata_depth=32, id_characters=4096, "
    "seconds=120 and memory_bytes=1G (parsing one document), outside_links=false."
)
_PRUNE_LIMIT = ("Prune nothing where more than this share of a source's documents is gone (its disk may not be "
                "mounted); 1: any.")

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard index docs/ --index my-index · "
                    "regard index python: --index std --view bm25 --encoder none · "
                    "regard index scifact/ --index sf --format beir --chunker whole --view hnsw:m=48 --view bm25")
def index(
    index: Annotated[Path, typer.Option(
        "--index", metavar="DIR", help="The index folder to make or to bring up to date.")],
    sources: Annotated[list[str] | None, typer.Argument(
        metavar="SOURCE...", show_default=False,
        help="Files, folders, or python: (its docstrings). None: only add encoders and views.")] = None,
    format: Annotated[str, typer.Option(help=_FORMAT)] = "auto",
    encoder: Annotated[str, typer.Option(help=_ENCODER)] = "auto",
    chunker: Annotated[str, typer.Option(help=_CHUNKER)] = "auto",
    view: Annotated[list[str] | None, typer.Option(help=_VIEW)] = None,
    no_text: Annotated[bool, typer.Option(
        "--no-text", help="Do not store the text (dense search only, no reranking).")] = False,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=_LIMITS)] = None,
    prune: Annotated[bool, typer.Option(
        "--prune", help="Delete documents that are no longer in these sources.")] = False,
    prune_limit: Annotated[float, typer.Option(min=0, max=1, help=_PRUNE_LIMIT)] = 0.5,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Index documents; run it again to add, to update, or to finish a job that was killed. Ctrl-C keeps what is
    done."""
    from ...dag.stores import index_exists
    from ...tables import table
    from ..terminal.jobs import show_report

    if index_exists(index):
        from .opening import consent

        consent([index], trust)
    try:
        report = table("regard.jobs")["index"](
            sources or None, index, format=format, encoder=None if encoder == "none" else encoder, chunker=chunker,
            views=view, text=not no_text, limits=limit or (), prune=prune, prune_limit=prune_limit)
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop or 'the same command goes on from what is committed'}", error=True)
        raise typer.Exit(130) from None  # as shells report a process that Ctrl-C ended
    show(report, as_json, show_report)
