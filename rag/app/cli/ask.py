"""``regard ask``."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import AllowKey, Filters, IndexDir, Json, OtherPipeline, Trust
from .output import print_json

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: regard ask my-index 'How long does a flea live?'")
def ask(
    index: IndexDir,
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to list in the JSON.")] = 10,
    pipeline: OtherPipeline = None,
    filter: Filters = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Answer a question: the answer streams, then its citations follow."""
    from ...dag.pipeline import RunDone
    from ...dag.trace import TextDelta
    from ...markup import Streamed
    from ...nouns import Answer, Ranking
    from ..terminal.found import answer_json, ranking_json, show_citations
    from .opening import filtered, first, pipeline_for

    shown = Streamed()
    with pipeline_for(index, pipeline, answer=True, allow_key=allow_key, trust=trust) as p:
        for event in p.stream(filtered(question, filter)):
            if isinstance(event, TextDelta) and not as_json:
                print(shown(event.text), end="", flush=True)
            elif isinstance(event, RunDone):
                result = event.result
    answer, ranking = first(result, Answer, p.name), first(result, Ranking, p.name, optional=True)
    if as_json:
        passages = ranking_json(ranking.top(k)) if ranking is not None else []
        print_json({"query": question, "passages": passages, "trace": result.trace.to_dict(),
                    "answer": answer_json(answer)})
    else:
        print()
        show_citations(answer, result.trace)
