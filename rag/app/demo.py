"""``regard demo``: the standard library's docstrings, real questions, cited answers, and a report to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from ..dag.pipeline import Pipeline, Result, RunDone
from ..dag.trace import TextDelta
from ..files import write_text
from ..markup import Streamed, one_line
from ..nouns import Query
from ..show.report import ReportEntry, report_html
from ..tables import table
from .presets import default_pipeline
from .terminal import styled
from .terminal.found import answer_json, ranking_json, show_citations
from .terminal.jobs import show_report

QUESTIONS = (
    "How do I delete a directory tree?",
    "How can I make a deep copy of an object?",
    "How do I run a command and capture its output?",
)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made: its index, the report page, and what was asked."""

    index: Path
    report: Path
    entries: list[ReportEntry]

    def to_dict(self) -> dict[str, Any]:
        asked = [{"query": entry.query.text, "passages": ranking_json(entry.ranking),
                  "answer": answer_json(entry.answer)}
                 for entry in self.entries if entry.answer is not None]
        return {"index": str(self.index), "report": str(self.report), "asked": asked}


def run_demo(out: Path, questions: list[str] | None = None, *, quiet: bool = False) -> Demo:
    """Index ``python:`` below ``out``, ask ``questions`` (or the demo's own), and write ``out/report.html``; prints all
    of it, unless ``quiet``."""
    console = Console(quiet=quiet)
    index, report = out / "index", out / "report.html"
    console.print("[bold]1. Index[/bold] the docstrings of the Python that runs this (again: nothing is encoded twice)")
    indexed = table("regard.jobs")["index"]("python:", index)
    if not quiet:
        show_report(indexed)
    console.print("\n[bold]2. Ask[/bold] BM25, dense retrieval and a cross-encoder, fused, read by SmolLM2-135M\n")
    with default_pipeline(index) as pipeline:
        entries = [_ask(pipeline, question, console) for question in questions or QUESTIONS]
        write_text(report, report_html("Regard demo", pipeline.graph(), entries))
    console.print(styled("\n", ("3. Look", "bold"), f" at {report.resolve().as_uri()}"))
    return Demo(index, report, entries)


def _ask(pipeline: Pipeline, question: str, console: Console) -> ReportEntry:
    console.print(Rule(styled(one_line(question)), align="left"))
    visible_part = Streamed()
    for event in pipeline.stream(question):
        if isinstance(event, TextDelta) and not console.quiet:
            print(visible_part(event.text), end="", flush=True)
        elif isinstance(event, RunDone):
            result = event.result
    if not console.quiet:
        _show(result, console)
    return ReportEntry(Query(question), result.passages.top(2 * _SHOWN), result.answer, result.trace)


def _show(result: Result, console: Console) -> None:
    """What follows the streamed answer."""
    print()
    for hit in result.passages.top(_SHOWN):
        before = " · ".join(f"{touch.stage} #{touch.rank}" for touch in hit.history[:-1])
        console.print(styled(f"  {hit.rank}. ", (one_line(hit.passage.document_id), "bold"), f"  {hit.score:.2f}  ",
                             (before, "dim")))
    show_citations(result.answer, result.trace)
