"""What the command line prints, and the JSON that it prints instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..dag.stage import Problem
from ..dag.trace import Trace
from ..evaluation.significance import Comparison
from ..markup import one_line, visible
from ..models.verification import MEASURED, SUPPORT_IS, described
from ..nouns import Answer, Ranking
from ..show.display import judged

if TYPE_CHECKING:
    from ..evaluation.order import OrderReport
    from ..lm.heads import HeadSet
    from ..trust import Connection
    from .doctor import Findings

console = Console(highlight=False)
_SHOWN = 280  # characters of a passage
_SKIPS_SHOWN = 5


def styled(*parts: str | tuple[str, str]) -> Text:
    """A text of ``parts``, each plain or with its style. Nothing in them is markup, or obeyed by a terminal; what is data is given as
    ``one_line`` of it where it must not break the line."""
    return Text.assemble(*(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts))


def say(*parts: str | tuple[str, str]) -> None:
    """Print :func:`styled`."""
    console.print(styled(*parts))


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
    say((one_line(query), "bold"), "  ", (f"{len(ranking)} passages, scores: {one_line(ranking.space)}", "dim"), "\n")
    if not len(ranking):
        say("nothing was found: other words may help, or fewer filters")
    for hit in ranking:
        path = " · ".join(f"{one_line(touch.stage)} #{touch.rank}" for touch in hit.history)
        say((f"{hit.rank:>2}", "bold cyan"), "  ", (one_line(hit.passage.title or hit.passage.document_id), "bold"),
            f"  {hit.score:.3f}  ", (f"{one_line(hit.passage.id)}  {path}", "dim"))
        say(f"    {_cut(hit.passage.text)}\n")
    show_times(trace)


def show_citations(answer: Answer, trace: Trace) -> None:
    """What follows an answer that was streamed."""
    say()
    if answer.note:
        say((f"The answer: {one_line(answer.note)}.", "yellow"))
    if answer.citations:
        say(("Similar passages", "bold"), "  ", (f"support: {SUPPORT_IS}", "dim"))
    for number, citation in enumerate(answer.citations, 1):
        say("  ", (f"[{number}]", "cyan"), f" {one_line(citation.document_id)} ",
            (f"{citation.start}-{citation.end}, support {citation.support:.2f}", "dim"), f"\n      “{_cut(citation.quote)}”")
    for sentence in answer.uncited:
        say("  ", ("no similar passage:", "yellow"), f" {one_line(sentence)}")
    for sentence in answer.unsupported:
        if sentence not in answer.uncited:
            say("  ", ("not entailed:", "yellow"), f" {one_line(sentence)}")
    if answer.sentences:
        by = f"; {described(answer.verifier)}" if answer.verifier else ""
        say((f"  {judged(answer)}{one_line(by)}", "dim"))
    say()
    show_times(trace)


def show_times(trace: Trace) -> None:
    stages = " · ".join(f"{one_line(s.stage)} {_seconds(s.seconds)}" for s in trace.stages)
    loading = sum(s.open_seconds for s in trace.stages)
    of_it = f", of it loading {_seconds(loading)}" if loading > 0.05 else ""
    say((f"{stages} · total {_seconds(trace.seconds)}{of_it}", "dim"))


def show_report(report: Any) -> None:
    """An ``IndexReport``."""
    say((one_line(report.index), "bold"), f": {report.total_passages:,} passages; views: {one_line(', '.join(report.views))}")
    say(f"{report.documents:,} documents read: {report.added:,} new, {report.updated:,} changed, {report.unchanged:,} unchanged, "
        f"{report.skipped:,} skipped; {report.encoded:,} passages encoded in {_seconds(report.encode_seconds)}, "
        f"{_seconds(report.seconds)} in all")
    if report.truncated:
        say((f"{report.truncated:,} passages are longer than the encoder's window; their end has no vector", "yellow"))
    if report.replaced_from_other_source:
        say((f"{report.replaced_from_other_source:,} documents replaced those of another source with the same id", "yellow"))
    if report.vanished:
        _show_vanished(report)
    for skip in report.skips[:_SKIPS_SHOWN]:
        say("  ", ("skipped", "yellow"), f" {one_line(str(skip.location))}: {one_line(skip.reason)}")
    if report.skipped > _SKIPS_SHOWN:
        say(f"  ... and {report.skipped - _SKIPS_SHOWN:,} more (--json lists a hundred)")


def _show_vanished(report: Any) -> None:
    named = report.vanished_ids[:_SKIPS_SHOWN]
    more = f" and {report.vanished - len(named):,} more" if report.vanished > len(named) else ""
    left = report.vanished - report.pruned
    fate = "they stay until they are deleted: regard delete, or regard index --prune" if not report.pruned else (
        f"{report.pruned:,} of them were deleted" + (f"; {left:,} may be among what could not be read" if left else ""))
    say((f"{report.vanished:,} documents of the index are no longer in their source:", "yellow"),
        f" {', '.join(map(one_line, named))}{more}\n  {fate}")


def show_deletion(report: Any) -> None:
    """A ``DeletionReport``."""
    unknown = f"; {report.unknown:,} ids are not in the index" if report.unknown else ""
    after = "" if report.purged or not report.documents else f"\n  their text is on the disk until: regard compact {one_line(report.index)}"
    say((one_line(report.index), "bold"), f": {report.documents:,} documents deleted ({report.passages:,} passages){unknown}"
        f"{', and purged' if report.purged else ''}; {_seconds(report.seconds)}{after}")


def show_compaction(report: Any) -> None:
    """A ``CompactionReport``."""
    say((one_line(report.index), "bold"), f": {report.bytes_before:,} -> {report.bytes_after:,} bytes, "
        f"{report.fragments_before:,} -> {report.fragments_after:,} fragments, {report.versions_removed:,} older versions removed"
        f"{', purged' if report.purged else ''}; {_seconds(report.seconds)}")
    for reason in report.kept:
        say(f"  kept: {one_line(reason)}")
    for view in report.views_removed:
        say(("  view removed", "yellow"), f", it could not be built anew: {one_line(view)}")


def show_comparison(rows: Sequence[Comparison]) -> None:
    """The rows of ``compare``; a star where p, corrected as the caption says, is below .05."""
    tests = sum(row.test is not None for row in rows)
    corrected = tests > 1 and rows[0].correction == "holm"
    note = f"Holm-corrected over {tests} comparisons" if corrected else f"not corrected for {tests} comparisons" if tests > 1 else ""
    table = Table("run", "metric", "mean", "difference", "p", *(["p, Holm"] if corrected else []), "wins/ties/losses",
                  title_style="dim", title_justify="left",
                  title="p: paired randomisation test against the first run" + (f"; *: p < .05, {note}" if note else "; *: p < .05"))
    for row in rows:
        table.add_row(_cell(row.run), _cell(row.metric), f"{row.mean:.4f}", *_tested(row, corrected))
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
    say((one_line(report.reranker), "bold"), "  ", (f"{report.queries} queries, {report.candidates:.3g} candidates each", "dim"))
    table = Table("candidates", "tau", "95 %", "top 10 kept", "same ranking", title_style="dim", title_justify="left",
                  title="tau: between score and place; above 0 what comes later scores higher. Shuffled, an impartial reranker has 0.")
    for effect in report.effects:
        low, high = effect.interval
        table.add_row(_cell(effect.arrangement), f"{effect.tau:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{effect.top_kept:.1f}",
                      f"{effect.unchanged} of {report.queries}")
    console.print(table)
    show_comparison(report.comparisons)


def show_heads(found: HeadSet, top: int) -> None:
    """The ``top`` heads by each measure, with their 95 % intervals."""
    measures = list(found.measures)
    about = f"{found.model}: layer.head, mean and 95 % interval over {found.recipe.get('queries', '?')} queries"
    table = Table(*map(Column, map(_cell, measures)), title=_cell(about), title_style="dim", title_justify="left")
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
            marked = ("not allowed", "red") if one.refused else ("allowed", "green")
            say(f"stage {one_line(repr(stage))} connects to ", (one_line(one.host), "bold"), f" with {one_line(key)}: ", marked)


def show_problems(file: str, problems: Sequence[Problem]) -> None:
    for problem in problems:
        say(("error", "red") if problem.fatal else ("warning", "yellow"), f" {problem}")
    if not problems:
        say(f"{one_line(file)}: no problem found")


def show_verified(report: Any) -> None:
    """What ``regard verify`` found, and did."""
    for colour, word, findings in (("red", "damaged", report.problems), ("yellow", "note", report.notes)):
        for found in findings:
            say((word, colour), f" {one_line(found.file)} {one_line(found.what)}" + (f"\n  -> {found.mend}" if found.mend else ""))
    for done in report.repaired:
        say(("repaired", "green"), f" {one_line(done)}")
    for document in report.lost:
        say(("index again", "yellow"), f" {one_line(document)}")
    state = "whole" if report.ok else f"{len(report.problems)} files are damaged"
    say(f"{one_line(report.index)}: {state}; {report.files} files, {report.bytes:,} bytes read in {report.seconds:.1f} s")


def show_doctor(findings: Findings) -> None:
    for title, rows, wanting in (("packages", findings["packages"], "missing"), ("embedded models", findings["models"], "missing"),
                                 ("views", findings["views"], "too large")):
        table = Table("", "name", "what", "to do", title=title, title_justify="left", title_style="bold")
        for row in rows:
            mark = ("ok", "green") if row["ok"] else (wanting, "red")
            table.add_row(styled(mark), *map(_cell, (row["name"], row["detail"], row["hint"])))
        if rows:
            console.print(table)
    table = Table("stage", "device", title="stages", title_justify="left", title_style="bold")
    for stage, device in findings["devices"].items():
        table.add_row(_cell(stage), _cell(device))
    console.print(table)
    for key, value in findings["machine"].items():
        say(f"{key}: {one_line(value)}")


def _cell(text: object) -> Text:
    return styled(one_line(str(text)))


def _cut(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN].rsplit(" ", 1)[0] + " …"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
