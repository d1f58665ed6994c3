"""``regard demo``: the standard library's docstrings, real questions, cited answers, and a report to look at."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.rule import Rule

from .documents import Query
from .pipeline import Pipeline, RunDone
from .presets import default_pipeline
from .registry import load
from .report import ReportEntry, report_html
from .terminal import console, show_citations, show_report
from .trace import Token

QUESTIONS = (
    "How do I delete a directory tree?",
    "How can I make a deep copy of an object?",
    "How do I run a command and capture its output?",
)
_SHOWN = 5


def run_demo(out: Path, questions: list[str] | None = None) -> Path:
    """Index ``python:`` below ``out``, ask ``questions`` (or the demo's own), print and write ``out/report.html``; its path."""
    index = out / "index"
    console.print("[bold]1. Index[/bold] the docstrings of the Python that runs this (again: nothing is encoded twice)")
    show_report(load("regard.jobs", "index")("python:", index))
    console.print("\n[bold]2. Ask[/bold] BM25, dense retrieval and a cross-encoder, fused, read by SmolLM2-135M\n")
    with default_pipeline(index) as pipeline:
        entries = [_ask(pipeline, question) for question in questions or QUESTIONS]
        report = out / "report.html"
        report.write_text(report_html("Regard demo", pipeline.graph(), entries), encoding="utf-8")
    console.print(f"\n[bold]3. Look[/bold] at {report.resolve().as_uri()}")
    return report


def _ask(pipeline: Pipeline, question: str) -> ReportEntry:
    console.print(Rule(escape(question), align="left"))
    for event in pipeline.stream(question):
        if isinstance(event, Token):
            print(event.text, end="", flush=True)
        elif isinstance(event, RunDone):
            result = event.result
    print()
    for hit in result.passages.top(_SHOWN):
        before = " · ".join(f"{touch.stage} #{touch.rank}" for touch in hit.history[:-1])
        console.print(f"  {hit.rank}. [bold]{escape(hit.passage.document_id)}[/bold]  {hit.score:.2f}  [dim]{escape(before)}[/dim]")
    show_citations(result.answer, result.trace)
    return ReportEntry(Query(question), result.passages.top(2 * _SHOWN), result.answer, result.trace)
