"""What a pipeline's check finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...dag.stage import Problem
from ...markup import one_line
from ...trust import Connection
from . import say


def show_connections(connections: Mapping[str, Sequence[Connection]]) -> None:
    """The servers that a pipeline would use, and the keys that it would send there."""
    for stage, used in connections.items():
        for one in used:
            key = f"the key in {one.variable}" + ("" if one.set else " (not set)") if one.variable else "no key"
            marked = ("not allowed", "red") if one.refused else ("allowed", "green")
            say(f"stage {one_line(repr(stage))} connects to ", (one_line(one.host), "bold"), f" with {one_line(key)}: ",
                marked)


def show_problems(file: str, problems: Sequence[Problem]) -> None:
    for problem in problems:
        say(("error", "red") if problem.fatal else ("warning", "yellow"), f" {problem}")
    if not problems:
        say(f"{one_line(file)}: no problem found")
