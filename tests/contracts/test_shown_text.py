"""Nothing that a document, a model, a file name or an id holds reaches a terminal or a page as something that is obeyed
or unseen.

The scanner here knows nothing of ``markup``: it goes by Unicode's categories, and by the bytes that terminals obey.
"""

import json
import os
import re
import subprocess
import sys
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers import build_index
from regard.rag import Pipeline
from regard.rag.app import terminal
from regard.rag.app.terminal import found
from regard.rag.dag.graph import Edge, Graph, Node
from regard.rag.dag.trace import StageTrace, Trace
from regard.rag.markup import Streamed, escape, json_escaped, one_line, visible
from regard.rag.nouns import Answer, Citation, Document, Passage, PassageList, Query, Ranking, Sentence
from regard.rag.show.display import answer_html, ranking_html, trace_html
from regard.rag.show.drawing import to_mermaid, to_svg
from regard.rag.show.report import ReportEntry, report_html
from regard.retrievers import BM25
from rich.console import Console

CLEAR, TITLE, PASTE = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x1b\\"
HOSTILE = (f"fleas {CLEAR}{TITLE}{PASTE}\x9b31m\x9d0;x\x9c \b\b\b\x7f\x00 real\roverwritten \u202egpj.exe\u202c "
           f"\u2066x\u2069 \u200b\u2060"
           "\ufeff\u200e\u061c\U000e0041\U000e0042 [bold red]x[/bold red] [link=http://evil]y[/link] [/] :warning: a\\")


def forbidden(text: str) -> list[str]:
    """The characters of ``text`` that a terminal obeys or that nobody sees: controls, format characters, surrogates."""
    return [ascii(c) for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def scan(text: str) -> None:
    assert forbidden(text) == []


@pytest.fixture(scope="module")
def hostile_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "index"
    build_index([Document(f"a b\x1b[2J{i}", HOSTILE, HOSTILE, {"k": HOSTILE}) for i in range(2)], path, encoder=None,
                views=["bm25"],
                chunker="whole", progress=False)
    return path


@pytest.fixture(scope="module")
def pipeline_file(hostile_index: Path) -> Path:
    p = Pipeline("name \x1b[2J [red]")
    p.output(passages=p.add(BM25(hostile_index, k=5), p.input(Query), name="st\x1b[2Jage [red]"))
    p.save(hostile_index.parent / "p.yaml")
    return hostile_index.parent / "p.yaml"


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "regard.rag.app.cli", *map(str, arguments)], capture_output=True,
                          text=True, check=False,
                          env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", **environment}, errors="surrogateescape")


@pytest.mark.slow
def test_every_command_that_meets_hostile_text(hostile_index: Path, pipeline_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "na\x1b[2Jme\u202e.txt").write_bytes(b"\x00\x01")
    (folder / "good.txt").write_text(HOSTILE.replace("\0", ""), encoding="utf-8")
    queries, out = tmp_path / "q.jsonl", tmp_path / "out.run"
    queries.write_text(json.dumps({"_id": "q 1\x1b", "text": "fleas"}) + "\n")
    qrels = tmp_path / "q.tsv"
    qrels.write_text("percent:q%201%1B\tpercent:a%20b%1B[2J0\t1\n")
    bad = tmp_path / "bad\x1b[2J.run"
    bad.write_text("q Q0 d\x1b[2J 1 x t\n")
    commands = [
        (0, "index", folder, "--index", tmp_path / "i", "--encoder", "none"),
        (0, "search", hostile_index, "fleas", "--pipeline", pipeline_file),
        (0, "search", hostile_index, "fleas", "--pipeline", pipeline_file, "--json"),
        (0, "run", pipeline_file, "--queries", queries, "--out", out), (0, "eval", out, "--qrels", qrels, "-m", "R@5"),
        (0, "check", pipeline_file), (0, "graph", pipeline_file), (0, "doctor", "--index", hostile_index),
        (1, "eval", bad, "--qrels", qrels), (1, "search", tmp_path / "no\x1b[2J\u202e", "fleas"),
        (1, "search", hostile_index, "fleas", "--pipeline", pipeline_file, "--filter", "no\x1b[2J\x9b=1"),
    ]
    for code, *arguments in commands:
        done = command(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        scan(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
    for line in out.read_text().splitlines():
        assert len(line.split()) == 6
        scan(line)
    found = json.loads(command("search", hostile_index, "fleas", "--pipeline", pipeline_file, "--json").stdout)
    assert found["passages"][0]["text"] == HOSTILE, "JSON keeps the data"
    assert float(re.findall(r"R@5\D+([0-9.]+)", command("eval", out, "--qrels", qrels, "-m", "R@5").stdout)[0]) == 1.0


def test_an_encoding_that_lacks_a_character_is_no_failure(hostile_index: Path, pipeline_file: Path) -> None:
    for more in ([], ["--json"]):
        done = command("search", hostile_index, "fleas é", "--pipeline", pipeline_file, *more, PYTHONIOENCODING="ascii",
                       PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        assert not more or json.loads(done.stdout)["query"] == "fleas é"


def views(text: str) -> dict[str, str]:
    """Every page, drawing and terminal view of values made of ``text``."""
    passage = Passage(text, text, text, 0, len(text), text, {"k": text})
    ranking = Ranking.ranked([0], [1.0], "bm25", PassageList([passage])).marked(text)
    answer = Answer(text, (Citation(text, text, 0, len(text), text, 0.5),),
                    sentences=(Sentence(0, len(text), (0,), 0.1),), verifier=text)
    trace = Trace([StageTrace(text, text, notes={text: text})])
    graph = Graph((Node(text, "input"), Node("s", text, {text: text}), Node(f"output:{text}", "output")),
                  (Edge(text, "s", text, text), Edge("s", f"output:{text}", text, text)))
    query = Query(f"x{text}", id=text, filters={text: text})
    console, terminal.console = terminal.console, Console(file=StringIO(), highlight=False, color_system=None,
                                                          width=200)
    try:
        found.show_ranking(text, ranking, trace)
        found.show_citations(answer, trace)
        printed = terminal.console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    finally:
        terminal.console = console
    return {"ranking": ranking_html(ranking), "answer": answer_html(answer), "trace": trace_html(trace),
            "svg": to_svg(graph),
            "mermaid": to_mermaid(graph),
            "report": report_html(text, graph, [ReportEntry(query, ranking, answer, trace)]),
            "terminal": printed}


def test_every_view_of_hostile_text_shows_marks_and_runs_nothing() -> None:
    for name, page in views(HOSTILE).items():
        scan(page)
        assert "202E" in page, name
    assert "[bold red]x[/bold red] [link=http://evil]y[/link] [/] :warning: a\\" in views(HOSTILE)["terminal"]


# what scripts are written with stays, in its place
_KEPT = "\u200c\u200d\u00ad"


@given(st.text(st.characters(), max_size=40) | st.text(st.sampled_from("a\\[]/ \x1b\u202e\u200d👩💻م\ufe0f\r\n\ud800"),
                                                       max_size=20))
def test_any_text_is_shown_without_what_is_obeyed(text: str) -> None:
    shown = visible(text)
    written = ("ARABIC", "KAITHI", "SYRIAC", "EGYPTIAN")  # of these scripts, format characters have ink
    visible_formats = {c for c in text if unicodedata.category(c) == "Cf"
                       and unicodedata.name(c, "").startswith(written)}
    left = [c for c in shown if forbidden(c) and c not in _KEPT and c not in visible_formats and c != "\u061c"]
    assert left == []
    assert visible(shown) == shown
    assert "\n" not in one_line(text)
    assert json.loads(json_escaped(json.dumps(text, ensure_ascii=False))) == text
    assert terminal.styled(text, ("x", "bold")).plain == shown + "x"
    escape(text).encode()


@pytest.mark.parametrize("text", [
    "می‌خواهم", "क्‍ष", "👩‍💻 👍🏽 ❤️‍🔥 👨‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪 1️⃣", "葛󠄀城", "Donau\u00addampfschiff", "שלום עולם", "مرحبا",
    "ไทย", "한국어",
    "tab\tline\n",
])
def test_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(("text", "shown"), [
    ("pay\u200dpal", "pay<U+200D>pal"), ("\u202egpj", "<U+202E>gpj"), ("a\r\nb\rc", "a\nb\nc"),
    ("x\ufe0f\ufe0f", "x\ufe0f<U+FE0F>"),
    ("م\u200d\u200d\u200d", "م\u200d<U+200D><U+200D>"), ("🏴\U000e0041", "🏴<U+E0041>"),
    ("\x9b2J", "<U+009B>2J"), ("\ufffe\ud800", "<U+FFFE><U+D800>"),
])
def test_what_hides_is_marked(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.lists(st.text(st.sampled_from("a\x1b]52;\x07\r\n\u200d👩💻م\ufe0f\u202e"), max_size=4), max_size=12))
def test_a_stream_shows_what_the_whole_text_shows(pieces: list[str]) -> None:
    shown = Streamed()
    assert "".join(map(shown, pieces)) == visible("".join(pieces))
