"""``regard heads``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Json, QrelsFile, Queries
from .output import print_json, say

_EXAMPLE = ("Example: regard heads detect --model smollm2 --queries xquad/queries.jsonl --index xquad-index "
            "--qrels xquad/qrels/test.tsv -o heads.json")
_MASK = ("block: passages do not see each other (for BlockICR); causal: they do (for QRHead and CoRe).")
_TEMPERATURE = "Of CoRe's measure; none: .1 for models named Llama or Phi, else .001."

app = typer.Typer(no_args_is_help=True, add_completion=False, epilog=_EXAMPLE)


@app.callback()
def heads() -> None:
    """Attention heads of a language model, for reranking."""


@app.command("detect", epilog=_EXAMPLE)
def detect(
    queries: Queries,
    index: Annotated[Path, typer.Option(
        metavar="DIR", help="An index with a BM25 view, which gives the candidates.")],
    qrels: QrelsFile,
    out: Annotated[Path, typer.Option("-o", "--out", help="The head set to write.")],
    model: Annotated[str, typer.Option(
        help="The language model: smollm2, a GGUF file, a folder or a Hugging Face id.")] = "smollm2",
    mask: Annotated[Literal["block", "causal"], typer.Option(help=_MASK)] = "block",
    depth: Annotated[int, typer.Option(min=2, help="Candidates a query, shuffled.")] = 20,
    limit: Annotated[int, typer.Option(min=0, help="So many random queries; 0: all.")] = 0,
    task: Annotated[Literal["search", "qa"], typer.Option(help="The instruction's wording.")] = "search",
    temperature: Annotated[float | None, typer.Option(help=_TEMPERATURE)] = None,
    top: Annotated[int, typer.Option(min=1, help="Heads to print.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure which attention heads tell relevant passages apart; rerankers take the file as heads=..."""
    from ...tables import table

    found = table("regard.jobs")["heads"](model, queries, index, qrels, out, limit=limit, depth=depth, mask=mask,
                                         task=task, temperature=temperature)
    if as_json:
        print_json({"model": found.model, "recipe": found.recipe, **{m: found.top(m, top) for m in found.measures}})
    else:
        from ..terminal.scores import show_heads

        show_heads(found, top)
        say(f"-> {out}")
