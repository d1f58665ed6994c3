"""What the jobs over an index report."""

from __future__ import annotations

from typing import Any

from ...markup import one_line
from . import duration, say

_SKIPS_SHOWN = 5


def show_report(report: Any) -> None:
    """An ``IndexReport``."""
    say((one_line(report.index), "bold"),
        f": {report.total_passages:,} passages; views: {one_line(', '.join(report.views))}")
    say(f"{report.documents:,} documents read: {report.added:,} new, {report.updated:,} changed, "
        f"{report.unchanged:,} unchanged, {report.skipped:,} skipped; {report.encoded:,} passages encoded in "
        f"{duration(report.encode_seconds)}, {duration(report.seconds)} in all")
    if report.truncated:
        say((f"{report.truncated:,} passages are longer than the encoder's window; their end has no vector", "yellow"))
    if report.replaced_from_other_source:
        say((f"{report.replaced_from_other_source:,} documents replaced those of another source with the same id",
             "yellow"))
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
    after = f"\n  their text is on the disk until: regard compact {one_line(report.index)}"
    say((one_line(report.index), "bold"), f": {report.documents:,} documents deleted ({report.passages:,} passages)"
        f"{unknown}{', and purged' if report.purged else ''}; {duration(report.seconds)}"
        f"{after if report.documents and not report.purged else ''}")


def show_compaction(report: Any) -> None:
    """A ``CompactionReport``."""
    say((one_line(report.index), "bold"), f": {report.bytes_before:,} -> {report.bytes_after:,} bytes, "
        f"{report.fragments_before:,} -> {report.fragments_after:,} fragments, "
        f"{report.versions_removed:,} older versions removed{', purged' if report.purged else ''}; "
        f"{duration(report.seconds)}")
    for reason in report.kept:
        say(f"  kept: {one_line(reason)}")
    for view in report.views_removed:
        say(("  view removed", "yellow"), f", it could not be built anew: {one_line(view)}")


def show_verified(report: Any) -> None:
    """What ``regard verify`` found, and did."""
    for colour, word, findings in (("red", "damaged", report.problems), ("yellow", "note", report.notes)):
        for found in findings:
            advice = f"\n  -> {found.mend}" if found.mend else ""
            say((word, colour), f" {one_line(found.file)} {one_line(found.what)}{advice}")
    for done in report.repaired:
        say(("repaired", "green"), f" {one_line(done)}")
    for document in report.lost:
        say(("index again", "yellow"), f" {one_line(document)}")
    state = "whole" if report.ok else f"{len(report.problems)} files are damaged"
    say(f"{one_line(report.index)}: {state}; {report.files} files, {report.bytes:,} bytes read in "
        f"{report.seconds:.1f} s")
