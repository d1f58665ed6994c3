"""A run as one self-contained HTML page: the pipeline, and for every question its answer, its passages and its
times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..dag.graph import Graph
from ..dag.trace import StageTrace, Trace
from ..markup import amount, duration, escape, one_line, setting, shorten
from ..models.verification import described
from ..nouns import Answer, Query, Ranking
from .display import answer_body, judged, page, plural, ranking_body, trace_body
from .drawing import to_svg


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """One question and what the pipeline made of it."""

    query: Query
    ranking: Ranking
    answer: Answer | None
    trace: Trace


def report_html(title: str, graph: Graph, entries: Sequence[ReportEntry]) -> str:
    """The page; write it with ``encoding="utf-8"``. It fetches nothing and runs nothing, which its own policy forbids
    too.

    The same arguments give the same page: there is no date in it, so put one into ``title`` where it matters.
    """
    traces = [entry.trace for entry in entries]
    spent = duration(sum(trace.seconds for trace in traces))
    asked = plural(len(entries), "question")
    body = "\n".join((
        f'<header><h1>{escape(one_line(title))}</h1><p class="rg-quiet">{asked} · {spent} in all</p></header>',
        _contents(entries),
        f'<main><section id="pipeline"><h2>Pipeline</h2>{_caption(len(entries))}'
        f'<div class="rg-figure">{to_svg(graph, total(traces) if traces else None)}</div></section>',
        *(_section(number, entry) for number, entry in enumerate(entries, 1)),
        "</main>",
    ))
    return page(title, body)


_SUMMED = ("queries", "seconds", "open_seconds", "candidates_in", "candidates_out", "tokens_in", "tokens_out",
           "cache_hits")


def total(traces: Iterable[Trace]) -> Trace:
    """The traces of several runs of one pipeline as one: times and counts added up, the highest peak memory."""
    sums: dict[str, StageTrace] = {}
    seconds = 0.0
    for trace in traces:
        seconds += trace.seconds
        for entry in trace.stages:
            held = sums.setdefault(entry.stage, StageTrace(entry.stage, entry.kind))
            for name in _SUMMED:
                setattr(held, name, getattr(held, name) + getattr(entry, name))
            held.peak_memory = max(held.peak_memory, entry.peak_memory)
    return Trace(list(sums.values()), seconds)


def _caption(runs: int) -> str:
    text = f"Times and counts are the sums over the {amount(runs)} questions."
    return f'<p class="rg-quiet">{text}</p>' if runs > 1 else ""


def _contents(entries: Sequence[ReportEntry]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("question", "best passage", "answer"))
    rows = "".join(_contents_row(number, entry) for number, entry in enumerate(entries, 1))
    head = f'<tr><th scope="col" class="rg-num">#</th>{heads}<th scope="col" class="rg-num">time</th></tr>'
    table = f'<table class="rg-table"><thead>{head}</thead><tbody>{rows}</tbody></table>' if entries else ""
    links = '<p><a href="#pipeline">Pipeline</a></p>'
    return f'<nav id="contents" aria-label="Contents"><h2>Contents</h2>{links}{table}</nav>'


def _contents_row(number: int, entry: ReportEntry) -> str:
    question = escape(shorten(one_line(entry.query.text), 140))
    return (f'<tr><td class="rg-num">{number}</td><td dir="auto"><a href="#q{number}">{question}</a></td>'
            f"<td>{_best(entry.ranking)}</td><td>{_judged(entry.answer)}</td>"
            f'<td class="rg-num">{duration(entry.trace.seconds)}</td></tr>')


def _best(ranking: Ranking) -> str:
    if not len(ranking):
        return '<span class="rg-quiet">none</span>'
    passage = ranking[0].passage
    return f"<code>{escape(shorten(one_line(passage.title or passage.id), 60))}</code>"


def _judged(answer: Answer | None) -> str:
    if answer is None:
        return '<span class="rg-quiet">not asked for</span>'
    if not answer.sentences:
        return escape(answer.note) or "given"
    by = f'<br/><span class="rg-quiet">{escape(described(answer.verifier))}</span>' if answer.verifier else ""
    return escape(judged(answer) + (f" · {answer.note}" if answer.note else "")) + by


def _section(number: int, entry: ReportEntry) -> str:
    query = entry.query
    about = [f"id {query.id}", *([f"filters: {setting(query.filters)}"] if query.filters else [])]
    parts = [
        f'<section id="q{number}" class="rg-question">',
        f'<h2 dir="auto"><span class="rg-number">{number}</span> {escape(one_line(query.text))}</h2>',
        f'<p class="rg-quiet">{escape(" · ".join(about))} · <a href="#contents">contents</a></p>',
    ]
    if entry.answer is not None:
        parts.append(f"<h3>Answer</h3>{answer_body(entry.answer, f'q{number}')}")
    parts.append(f"<h3>Passages</h3>{ranking_body(entry.ranking)}<h3>Time</h3>{trace_body(entry.trace)}</section>")
    return "\n".join(parts)
