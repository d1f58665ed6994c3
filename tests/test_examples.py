"""What the README and the notebook show runs, and shows what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def test_the_readmes_python_examples_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], cwd=tmp_path, capture_output=True, text=True, check=False)
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


def test_the_quickstart_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = ["".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", []))
               for cell in notebook.cells]
    everything = "\n".join(outputs)
    assert "again: 0 encoded" in everything
    assert "it would fit port" in everything
    assert everything.count("<svg") >= 2
    assert "shutil.rmtree" in outputs[next(i for i, c in enumerate(notebook.cells) if c.source == "result.passages.top(5)")]
    nbformat.write(notebook, tmp_path / "executed.ipynb")
