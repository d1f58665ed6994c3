"""A pipeline over a file of queries: batches, a progress bar, a TREC run at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ..dag.pipeline import Pipeline
from ..errors import ConfigError
from ..evaluation.beir import read_queries
from ..evaluation.runs import Run, run_from_rankings
from ..evaluation.trec import write_run
from ..files import expect_writable, write_text
from ..nouns import Answer, Batch, Query, Ranking
from ..progress import progress_bar


def run_queries(
    pipeline: Pipeline, queries: str | Path, out: str | Path, *, batch: int = 64,
    by: Literal["document", "passage"] = "document", cache: str | Path | None = None, answers: str | Path | None = None,
) -> dict[str, Any]:
    """Run ``pipeline`` over the queries of a JSON-lines file and write the TREC run ``out`` (and ``answers`` as JSON
    lines).

    What was computed before an interruption is found again when ``cache`` names a folder, which stands in for the
    pipeline's own during the run. Gives a summary with counts and seconds. Raises ``ConfigError`` for a ``batch`` below
    1, or without an output to write, ``StorageError`` where ``out`` or ``answers`` cannot be written: all of it before
    anything runs. Every id can be written (see ``evaluation.trec``).
    """
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(f"batch is {batch!r:.80}", where="run_queries",
                          hint="batch is how many queries run together, at least 1")
    if by not in ("document", "passage"):
        raise ConfigError(f"a run cannot rank by {by!r:.80}", where="run_queries", hint='"document" or "passage"')
    asked = read_queries(queries)
    for file in (out, answers):
        if file:
            expect_writable(file)  # now, and not after hours
    ranking, answer = _output(pipeline, Ranking, "ranking"), _output(pipeline, Answer, "answer") if answers else None
    run: Run = {}
    lines: list[str] = []
    start = time.perf_counter()
    with _cached_in(pipeline, cache), pipeline, progress_bar("running", len(asked), "queries") as advance:
        for first in range(0, len(asked), batch):
            some = asked[first:first + batch]
            result = pipeline.run(some)
            run |= run_from_rankings(some, result[ranking], by=by)
            lines += _answers(some, result[answer]) if answer else []
            advance(len(some), "")
    write_run(run, out, tag=pipeline.name)
    if answers:
        write_text(answers, "".join(lines))
    return {"queries": len(asked), "run": str(out), "answers": str(answers) if answers else None,
            "seconds": time.perf_counter() - start}


@contextmanager
def _cached_in(pipeline: Pipeline, folder: str | Path | None) -> Iterator[None]:
    """The pipeline keeps its stages' outputs in ``folder`` for a while (None: where it keeps them anyway)."""
    before = pipeline.cache
    pipeline.cache = folder if folder is not None else before
    try:
        yield
    finally:
        pipeline.cache = before


def _output(pipeline: Pipeline, kind: type, what: str) -> str:
    """The first output of this kind. Raises ``ConfigError`` when there is none."""
    for port in pipeline.plan().ports().outputs:
        if port.type is kind:
            return port.name
    raise ConfigError(f"the pipeline gives no {what}", where=pipeline.name,
                      hint=f"name one under outputs; it gives {', '.join(pipeline.outputs)}")


def _answers(queries: list[Query], answers: Batch[Answer]) -> list[str]:
    rows = ({"_id": query.id, "query": query.text, **answer.to_dict()}
            for query, answer in zip(queries, answers, strict=True))
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
