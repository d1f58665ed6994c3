"""What the command line prints, and the JSON that it prints instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .display import judged
from .documents import Answer, Ranking
from .evaluation.significance import Comparison
from .stage import Problem
from .trace import Trace
from .verification import MEASURED, SUPPORT_IS, described

if TYPE_CHECKING:
    from .doctor import Findings
    from .evaluation.order import OrderReport
    from .lm.heads import HeadSet
    from .trust import Connection

console = Console()
_SHOWN = 280  # characters of a passage
_SKIPS_SHOWN = 5


def ranking_json(ranking: Ranking) -> list[dict[str, Any]]:
    """The hits as the ``passages`` of ``--json``."""
    return [
        {
            "id": hit.passage.id, "document_id": hit.passage.document_id, "rank": hit.rank, "score": hit.score,
            "score_space": ranking.space, "title": hit.passage.title, "text": hit.passage.text, "start": hit.passage.start,
            "end": hit.passage.end, "history": [touch.to_dict() for touch in hit.history],
        }
        for hit in ranking
    ]


def answer_json(answer: Answer) -> dict[str, Any]:
    """The ``answer`` of ``--json``: the text and why it ends, its sentences with the verdict on each, and the similar passages.

    ``support_is`` says what ``support`` means. ``verifier`` is null where none judged; its ``false_passes`` and ``recall`` are null
    where they were not measured.
    """
    return {
        "text": answer.text, "finish": answer.finish, "truncated": answer.truncated, "note": answer.note,
        "sentences": [
            {"text": answer.text[s.start:s.end], "start": s.start, "end": s.end, "citations": list(s.citations),
             "entailed": s.entailed, "probability": s.probability}
            for s in answer.sentences
        ],
        "citations": [c.to_dict() for c in answer.citations], "support_is": SUPPORT_IS,
        "verifier": verifier_json(answer.verifier) if answer.verifier else None,
        "unsupported": list(answer.unsupported), "uncited": list(answer.uncited),
    }


def verifier_json(name: str) -> dict[str, Any]:
    """A verifier and how often it is wrong."""
    known = MEASURED.get(name)
    return {"name": name, "false_passes": known.false_passes if known else None, "recall": known.recall if known else None,
            "measured_on": known.on if known else None}


def show_ranking(query: str, ranking: Ranking, trace: Trace) -> None:
    console.print(f"[bold]{escape(query)}[/bold]  [dim]{len(ranking)} passages, scores: {ranking.space}[/dim]\n")
    if not len(ranking):
        console.print("nothing was found: other words may help, or fewer filters")
    for hit in ranking:
        path = " · ".join(f"{touch.stage} #{touch.rank}" for touch in hit.history)
        console.print(f"[bold cyan]{hit.rank:>2}[/bold cyan]  [bold]{escape(hit.passage.title or hit.passage.document_id)}[/bold]"
                      f"  {hit.score:.3f}  [dim]{escape(hit.passage.id)}  {escape(path)}[/dim]")
        console.print(f"    {escape(_cut(hit.passage.text))}\n", highlight=False)
    show_times(trace)


def show_citations(answer: Answer, trace: Trace) -> None:
    """What follows an answer that was streamed."""
    console.print()
    if answer.note:
        console.print(f"[yellow]The answer: {escape(answer.note)}.[/yellow]", highlight=False)
    if answer.citations:
        console.print(f"[bold]Similar passages[/bold]  [dim]support: {SUPPORT_IS}[/dim]")
    for number, citation in enumerate(answer.citations, 1):
        console.print(f"  [cyan]\\[{number}][/cyan] {escape(citation.document_id)} [dim]{citation.start}-{citation.end}, "
                      f"support {citation.support:.2f}[/dim]\n      “{escape(_cut(citation.quote))}”", highlight=False)
    for sentence in answer.uncited:
        console.print(f"  [yellow]no similar passage:[/yellow] {escape(sentence)}", highlight=False)
    for sentence in answer.unsupported:
        if sentence not in answer.uncited:
            console.print(f"  [yellow]not entailed:[/yellow] {escape(sentence)}", highlight=False)
    if answer.sentences:
        by = f"; {described(answer.verifier)}" if answer.verifier else ""
        console.print(f"  [dim]{escape(judged(answer) + by)}[/dim]", highlight=False)
    console.print()
    show_times(trace)


def show_times(trace: Trace) -> None:
    stages = " · ".join(f"{s.stage} {_seconds(s.seconds)}" for s in trace.stages)
    loading = sum(s.open_seconds for s in trace.stages)
    console.print(f"[dim]{stages} · total {_seconds(trace.seconds)}" + (f", of it loading {_seconds(loading)}" if loading > 0.05 else "")
                  + "[/dim]", highlight=False)


def show_report(report: Any) -> None:
    """An ``IndexReport``."""
    console.print(f"[bold]{escape(report.index)}[/bold]: {report.total_passages:,} passages; views: {escape(', '.join(report.views))}")
    console.print(f"{report.documents:,} documents read: {report.added:,} new, {report.updated:,} changed, {report.unchanged:,} unchanged, "
                  f"{report.skipped:,} skipped; {report.encoded:,} passages encoded in {_seconds(report.encode_seconds)}, "
                  f"{_seconds(report.seconds)} in all", highlight=False)
    if report.truncated:
        console.print(f"[yellow]{report.truncated:,} passages are longer than the encoder's window; their end has no vector[/yellow]")
    if report.vanished:
        _show_vanished(report)
    for skip in report.skips[:_SKIPS_SHOWN]:
        console.print(f"  [yellow]skipped[/yellow] {escape(str(skip.location))}: {escape(skip.reason)}", highlight=False)
    if report.skipped > _SKIPS_SHOWN:
        console.print(f"  ... and {report.skipped - _SKIPS_SHOWN:,} more (--json lists a hundred)")


def _show_vanished(report: Any) -> None:
    shown = report.vanished_ids[:_SKIPS_SHOWN]
    more = f" and {report.vanished - len(shown):,} more" if report.vanished > len(shown) else ""
    console.print(f"[yellow]{report.vanished:,} documents of the index are no longer in their source:[/yellow] "
                  f"{escape(', '.join(shown))}{more}\n  they stay until they are removed: regard.indexers.delete_documents(index, ids)",
                  highlight=False)


def show_comparison(rows: Sequence[Comparison]) -> None:
    """The rows of ``compare``; a star where p, corrected as the caption says, is below .05."""
    tests = sum(row.test is not None for row in rows)
    corrected = tests > 1 and rows[0].correction == "holm"
    note = f"Holm-corrected over {tests} comparisons" if corrected else f"not corrected for {tests} comparisons" if tests > 1 else ""
    table = Table("run", "metric", "mean", "difference", "p", *(["p, Holm"] if corrected else []), "wins/ties/losses",
                  title_style="dim", title_justify="left",
                  title="p: paired randomisation test against the first run" + (f"; *: p < .05, {note}" if note else "; *: p < .05"))
    for row in rows:
        table.add_row(row.run, row.metric, f"{row.mean:.4f}", *_tested(row, corrected))
    console.print(table)


def _tested(row: Comparison, corrected: bool) -> list[str]:
    """The cells right of a row's mean: difference, p, p after correction, wins/ties/losses."""
    test = row.test
    if test is None or row.p_adjusted is None:
        return [""] * (3 + corrected)
    counts = f"{row.wins}/{row.ties}/{row.losses}"
    if test.identical:
        return ["identical", *[""] * (1 + corrected), counts]
    starred = f"{row.p_adjusted:.4f}" + (" *" if row.p_adjusted < 0.05 else "")
    return [f"{test.difference:+.4f}", *([f"{test.p:.4f}", starred] if corrected else [starred]), counts]


def show_order(report: OrderReport) -> None:
    """What a reranker makes of its candidates' order."""
    console.print(f"[bold]{escape(report.reranker)}[/bold]  [dim]{report.queries} queries, {report.candidates:.3g} candidates each[/dim]")
    table = Table("candidates", "tau", "95 %", "top 10 kept", "same ranking", title_style="dim", title_justify="left",
                  title="tau: between score and place; above 0 what comes later scores higher. Shuffled, an impartial reranker has 0.")
    for effect in report.effects:
        low, high = effect.interval
        table.add_row(effect.arrangement, f"{effect.tau:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{effect.top_kept:.1f}",
                      f"{effect.unchanged} of {report.queries}")
    console.print(table)
    show_comparison(report.comparisons)


def show_heads(found: HeadSet, top: int) -> None:
    """The ``top`` heads by each measure, with their 95 % intervals."""
    measures = list(found.measures)
    table = Table(*measures, title=f"{found.model}: layer.head, mean and 95 % interval over {found.recipe.get('queries', '?')} queries",
                  title_style="dim", title_justify="left")
    for best in zip(*(found.top(measure, top) for measure in measures), strict=True):
        cells = []
        for measure, (layer, head) in zip(measures, best, strict=True):
            low, high = found.intervals[measure][layer][head]
            cells.append(f"{layer}.{head}  {found.measures[measure][layer][head]:.3f} ({low:.3f} to {high:.3f})")
        table.add_row(*cells)
    console.print(table)


def show_connections(connections: Mapping[str, Sequence[Connection]]) -> None:
    """The servers that a pipeline would use, and the keys that it would send there."""
    for stage, used in connections.items():
        for one in used:
            key = f"the key in {one.variable}" + ("" if one.set else " (not set)") if one.variable else "no key"
            marked = "[red]not allowed[/red]" if one.refused else "[green]allowed[/green]"
            console.print(f"stage {escape(repr(stage))} connects to [bold]{escape(one.host)}[/bold] with {escape(key)}: {marked}",
                          highlight=False)


def show_problems(file: str, problems: Sequence[Problem]) -> None:
    for problem in problems:
        colour, word = ("red", "error") if problem.fatal else ("yellow", "warning")
        console.print(f"[{colour}]{word}[/{colour}] {escape(str(problem))}", highlight=False)
    if not problems:
        console.print(f"{escape(file)}: no problem found")


def show_doctor(findings: Findings) -> None:
    for title, rows, wanting in (("packages", findings["packages"], "missing"), ("embedded models", findings["models"], "missing"),
                                 ("views", findings["views"], "too large")):
        marks = {True: "[green]ok[/green]", False: f"[red]{wanting}[/red]"}
        table = Table("", "name", "what", "to do", title=title, title_justify="left", title_style="bold")
        for row in rows:
            table.add_row(marks[row["ok"]], escape(row["name"]), row["detail"], escape(row["hint"]))
        if rows:
            console.print(table)
    table = Table("stage", "device", title="stages", title_justify="left", title_style="bold")
    for stage, device in findings["devices"].items():
        table.add_row(stage, device)
    console.print(table)
    for key, value in findings["machine"].items():
        console.print(f"{key}: {value}", highlight=False)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN].rsplit(" ", 1)[0] + " …"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
