"""``regard search``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import AllowKey, Filters, IndexDir, Json, OtherPipeline, Trust
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Examples: regard search my-index 'flea life cycle' -k 5 · "
                    "regard search my-index 'tax law' --filter year=2024 --json")
def search(
    index: IndexDir,
    query: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to show.")] = 10,
    pipeline: OtherPipeline = None,
    filter: Filters = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Rank passages: BM25, dense retrieval and a cross-encoder, fused, unless --pipeline says otherwise."""
    from ...nouns import Ranking
    from ..terminal.found import ranking_json, show_ranking
    from .opening import filtered, first, pipeline_for

    with pipeline_for(index, pipeline, answer=False, allow_key=allow_key, trust=trust) as p:
        result = p.run(filtered(query, filter))
    ranking = first(result, Ranking, p.name).top(k)
    if as_json:
        print_json({"query": query, "passages": ranking_json(ranking), "trace": result.trace.to_dict()})
    else:
        show_ranking(query, ranking, result.trace)
