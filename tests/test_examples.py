"""What the README and the notebooks show runs, and shows what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def test_the_readmes_python_examples_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    answer, *_, last = done.stdout.splitlines()
    assert "two weeks" in answer
    (best,) = (line for line in done.stdout.splitlines() if line.startswith("1 flea "))
    assert "['bm25', 'dense', 'fuse', 'crossencoder']" in best
    assert int(last.split()[0]) > 20
    assert last.endswith("tokens were not run again")


def test_the_readmes_links_and_folders_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"^\| `([a-z/]+)/` \|", text, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def executed(name: str, tmp_path: Path) -> dict[str, str]:
    """What each code cell of a notebook shows, by its source: text, errors, HTML."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count")
               for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, timeout=500, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    return {cell.source: "".join(map(shown, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}


def shown(output: Any) -> str:
    data = output.get("data", {})
    return str(output.get("text", "")) + str(data.get("text/html", data.get("text/plain", "")))


def by(outputs: dict[str, str], words: str) -> str:
    """What the one cell shows whose source has ``words``."""
    (found,) = [output for source, output in outputs.items() if words in source]
    return found


def test_the_quickstart_notebook_runs(tmp_path: Path) -> None:
    outputs = executed("quickstart", tmp_path)
    assert "deepcopy" in by(outputs, "RAG(source, index)")
    assert "54 documents" in by(outputs, "build_index(")
    assert "again: 0 encoded" in by(outputs, "build_index(")
    assert "it would fit port" in by(outputs, "except PortTypeError")
    assert "shutil.rmtree" in by(outputs, "result.passages.top(5)")
    drawn = next(output for source, output in outputs.items() if source.endswith("\np"))
    timed = by(outputs, "p.to_svg(result.trace)")
    assert drawn.count("<svg") == timed.count("<svg") == 1
    assert " ms" not in drawn
    assert re.search(r"\d m?s\b", timed)
    assert by(outputs, "Pipeline.load").endswith("True")
    assert "<mark" in by(outputs, "show_attention") or "underline" in by(outputs, "show_attention")


@pytest.fixture(scope="module")
def extending(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return executed("extending", tmp_path_factory.mktemp("extending"))


def ranked(html: str) -> list[str]:
    """The documents of a ranking's table, best first."""
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    names = [re.search(r"\b(?:shutil|copy|glob|csv|tempfile)(?:\.\w+)?", re.sub(r"<[^>]*>", " ", row)) for row in rows]
    return [name[0] for name in names if name]


def test_each_extension_is_one_short_cell(extending: dict[str, str]) -> None:
    made = [source for source in extending if re.search(r"^@register", source, re.MULTILINE)]
    assert [re.findall(r"^class (\w+)", source, re.MULTILINE)[-1] for source in made] == [
        "BestSentence", "QuestionAlone", "Signs", "WholeParagraphs"]
    assert all(len(source.splitlines()) < 40 for source in made)


def test_what_is_registered_is_used_by_its_name(extending: dict[str, str]) -> None:
    reranked, attended = by(extending, "(BM25(index, k=20) >> reranker)"), by(extending,
                                                                              'policy="QuestionAlone:fusion=0.3"')
    assert ranked(reranked)[0] == "shutil.rmtree"
    assert "bestsentence" in reranked
    assert "attentionreranker" in attended
    assert ranked(attended)[0] == "shutil.rmtree"
    assert len(ranked(attended)) == 3
    assert "depth: Input should be greater than or equal to 1" in by(extending, "BestSentence(depth=0)")
    views = by(extending, 'views=["bm25", "flat", "signs"]')
    assert "0 encoded; ['bm25', 'flat:minilm', 'signs:minilm']" in views
    (flat, first), (signs, found) = re.findall(r"([\d,]+) bytes:  (\S+)", views)
    assert first == found == "shutil.rmtree"
    assert int(flat.replace(",", "")) > 20 * int(signs.replace(",", ""))
    passages = int(re.search(r"(\d+) passages\n",
                             by(extending, "chunker=\"WholeParagraphs")).group(1))  # type: ignore[union-attr]
    assert 54 < passages != int(by(extending, "build_index(source, index).total_passages").split()[-1])


def test_control_shows_what_it_did(extending: dict[str, str]) -> None:
    each, choose, loop = (output for source, output in extending.items() if source.endswith("\np"))
    for drawing, bodies, names in (
        (each, 1, "rewritten each dense fuse"), (choose, 3, "choose name_or_question bm25 bestsentence"),
        (loop, 1, "begin loop asked bm25 gathered hops fuse"),
    ):
        assert drawing.count("<svg") == 1
        assert all(name in drawing for name in names.split())
        assert drawing.count('class="canvas frame"') == 1 + bodies
    once, thrice = by(extending, '"asked once"').splitlines()[-2:]
    assert re.findall(r"\S+\.\S+", once)[0] == "tempfile.TemporaryDirectory"
    assert re.findall(r"\S+\.\S+", thrice)[0] == "shutil.rmtree"
    by_name, by_question = by(extending, 'p.run(["copytree", question])').splitlines()[-2:]
    assert by_name.split()[:2] == ["choose/name/bm25", "shutil.copytree"]
    assert by_question.split()[:2] == ["choose/question/bm25", "shutil.rmtree"]
    hops = by(extending, "for hit in result.passages:")
    assert hops.startswith("1 shutil.rmtree found by loop/1/bm25\n2 shutil.copytree found by loop/2/bm25")
    assert 1 < int(re.search(r"hops: (\d+) of at most 8", hops).group(1)) < 8  # type: ignore[union-attr]
    assert re.search(r"\d m?s\b", by(extending, "p.to_svg(result.trace)"))


def test_the_tables_know_the_session_and_files_do_not(extending: dict[str, str]) -> None:
    listed = by(extending, 'method.place == "this session"')
    assert re.findall(r"^regard\.(\w+) +(\w+)", listed, re.MULTILINE) == [
        ("stages", "BestSentence"), ("policies", "QuestionAlone"), ("views", "signs"), ("chunkers", "WholeParagraphs")]
    assert re.search(r"stages: .*\bBM25 .*\bBestSentence ", listed)
    assert "it was defined in a notebook" in by(extending, "mine.yaml")


def test_the_distribution_that_the_notebook_shows_is_the_one_that_the_contracts_try(extending: dict[str, str]) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "extending.ipynb", as_version=4)
    shown_file, shown_group = re.findall(r"```\w+\n(.*?)```", notebook.cells[-1].source, re.DOTALL)
    module = (ROOT / "tests" / "third_party" / "acme_rerankers.py").read_text()
    head, _, body = module.partition("class BestSentence")
    assert len(module.splitlines()) < 40
    assert shown_file == f"{head}class BestSentence(Stage):\n    ...\n"
    assert any(source.endswith(f"@register\nclass BestSentence{body.rstrip()}") for source in extending)
    installed = (ROOT / "tests" / "third_party" / "acme_rerankers-1.0.dist-info" / "entry_points.txt").read_text()
    (group, entry), point = tomllib.loads(shown_group)["project"]["entry-points"].popitem(), installed.splitlines()
    assert point == [f"[{group}]", *(f"{name} = {place}" for name, place in entry.items())]
