"""What ``regard doctor`` found."""

from __future__ import annotations

from rich.table import Table

from ...markup import one_line
from ..doctor import Findings
from . import cell, put, say, styled


def show_doctor(findings: Findings) -> None:
    for title, rows, wanting in (("packages", findings["packages"], "missing"),
                                 ("embedded models", findings["models"], "missing"),
                                 ("views", findings["views"], "too large")):
        table = Table("", "name", "what", "to do", title=title, title_justify="left", title_style="bold")
        for row in rows:
            mark = ("ok", "green") if row["ok"] else (wanting, "red")
            table.add_row(styled(mark), *map(cell, (row["name"], row["detail"], row["hint"])))
        if rows:
            put(table)
    table = Table("stage", "device", title="stages", title_justify="left", title_style="bold")
    for stage, device in findings["devices"].items():
        table.add_row(cell(stage), cell(device))
    put(table)
    for key, value in findings["machine"].items():
        say(f"{key}: {one_line(value)}")
