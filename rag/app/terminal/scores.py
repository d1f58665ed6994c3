"""Measures: runs compared, what a reranker makes of an order, attention heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table

from ...evaluation.significance import Comparison
from ...markup import one_line
from . import cell, put, say

if TYPE_CHECKING:
    from ...evaluation.order import OrderReport
    from ...lm.heads import HeadSet


def show_comparison(rows: Sequence[Comparison]) -> None:
    """The rows of ``compare``; a star where p, corrected as the caption says, is below .05."""
    tests = sum(row.test is not None for row in rows)
    corrected = tests > 1 and rows[0].correction == "holm"
    how = "Holm-corrected over" if corrected else "not corrected for"
    note = f", {how} {tests} comparisons" if tests > 1 else ""
    table = Table("run", "metric", "mean", "difference", "p", *(["p, Holm"] if corrected else []), "wins/ties/losses",
                  title_style="dim", title_justify="left",
                  title=f"p: paired randomisation test against the first run; *: p < .05{note}")
    for row in rows:
        table.add_row(cell(row.run), cell(row.metric), f"{row.mean:.4f}", *_tested(row, corrected))
    put(table)


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
    say((one_line(report.reranker), "bold"), "  ",
        (f"{report.queries} queries, {report.candidates:.3g} candidates each", "dim"))
    table = Table("candidates", "tau", "95 %", "top 10 kept", "same ranking", title_style="dim", title_justify="left",
                  title="tau: between score and place; above 0 what comes later scores higher. "
                        "Shuffled, an impartial reranker has 0.")
    for effect in report.effects:
        low, high = effect.interval
        table.add_row(cell(effect.arrangement), f"{effect.tau:+.3f}", f"{low:+.3f} to {high:+.3f}",
                      f"{effect.top_kept:.1f}", f"{effect.unchanged} of {report.queries}")
    put(table)
    show_comparison(report.comparisons)


def show_heads(found: HeadSet, top: int) -> None:
    """The ``top`` heads by each measure, with their 95 % intervals."""
    measures = list(found.measures)
    about = f"{found.model}: layer.head, mean and 95 % interval over {found.recipe.get('queries', '?')} queries"
    table = Table(*map(Column, map(cell, measures)), title=cell(about), title_style="dim", title_justify="left")
    for best in zip(*(found.top(measure, top) for measure in measures), strict=True):
        cells = []
        for measure, (layer, head) in zip(measures, best, strict=True):
            low, high = found.intervals[measure][layer][head]
            cells.append(f"{layer}.{head}  {found.measures[measure][layer][head]:.3f} ({low:.3f} to {high:.3f})")
        table.add_row(*cells)
    put(table)
