"""``regard methods``: what the tables hold, with another distribution's sound and broken entries beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from regard.rag.app.cli import app
from regard.rag.app.methods import groups, methods
from regard.rag.errors import ConfigError
from regard.rag.tables import table
from typer.testing import CliRunner

OTHER = '''
from dataclasses import dataclass

STAGES = {"Good": ".good:Good", "Broken": ".broken:Broken", "Absent": ".good:Absent"}
THINGS = {"thing": ".good:thing"}
'''
GOOD = '''
from typing import NamedTuple


class Card(NamedTuple):
    authors: str
    year: int
    arxiv: str = ""
    note: str = ""


class Good:
    """A good \\x1b[31mstage.

    It says more."""

    card = Card("Nobody and Others", 2024, "2401.00001", "without the\\nsecond pass")


def thing():
    """A thing."""
'''


@pytest.fixture
def other(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which another distribution is installed."""
    package, info = tmp_path / "other", tmp_path / "other-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text(OTHER)
    (package / "good.py").write_text(GOOD)
    (package / "broken.py").write_text("1 / 0")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = "[regard.stages]\nother = other:STAGES\n[regard.things]\nother = other:THINGS\n"
    (info / "entry_points.txt").write_text(points)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}


def _regard(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "regard.rag.app.cli", "methods", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_every_entry_of_every_table_is_listed() -> None:
    listed = methods()
    known = {"regard.stages", "regard.encoders", "regard.jobs", "regard.stores"}
    assert {m.group for m in listed} == set(groups()) >= known
    assert [(m.group, m.name) for m in listed] == [(group, name) for group in groups() for name in table(group)]
    assert [m.error for m in listed if m.error] == []
    (bm25,) = [m for m in listed if m.name == "BM25"]
    assert bm25.place == "regard.retrievers.bm25:BM25"
    assert bm25.summary == (table("regard.stages")["BM25"].__doc__ or "").splitlines()[0].strip() != ""


def test_another_distributions_entries_and_tables_are_among_them_broken_ones_as_broken(other: dict[str, str]) -> None:
    listed = {(m["group"], m["name"]): m for m in json.loads(_regard(other, "--json"))}
    good = listed["regard.stages", "Good"]
    assert good["card"] == {"authors": "Nobody and Others", "year": 2024, "arxiv": "2401.00001", "code": None,
                            "note": "without the\nsecond pass"}
    assert (good["place"], good["error"]) == ("other.good:Good", "")
    assert "division by zero" in listed["regard.stages", "Broken"]["error"]
    assert "Absent" in listed["regard.stages", "Absent"]["error"]
    assert listed["regard.things", "thing"]["summary"] == "A thing."
    assert listed["regard.stages", "BM25"]["error"] == ""


def test_people_see_papers_and_what_is_broken_and_a_terminal_obeys_nothing(other: dict[str, str]) -> None:
    text = _regard(other, "regard.stages")
    assert "Nobody and Others, 2024, arXiv 2401.00001; without the second pass" in text
    assert "broken: 'Broken' cannot be imported" in text
    assert "\x1b[31m" not in text
    assert "regard.things" not in text
    assert "BM25" in text


def test_a_class_of_this_session_is_listed_too() -> None:
    class Mine:
        """Mine alone."""

    stages = table("regard.stages")
    stages.register("Mine", Mine)
    try:
        (mine,) = [m for m in methods("regard.stages") if m.name == "Mine"]
    finally:
        stages.forget("Mine")
    assert (mine.place, mine.summary, mine.card) == ("this session", "Mine alone.", None)


def test_only_the_tables_that_were_asked_for_and_no_unknown_one() -> None:
    result: Any = CliRunner().invoke(app, ["methods", "regard.stores", "--json"], catch_exceptions=False)
    assert {m["group"] for m in json.loads(result.stdout)} == {"regard.stores"}
    with pytest.raises(ConfigError, match="there is no table") as raised:
        methods("regard.nothing")
    assert "regard.stages" in str(raised.value)
