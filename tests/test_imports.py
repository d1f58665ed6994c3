"""What an import costs: which modules each entrance loads, rather than seconds (``benchmarks/bench_import.py`` prints
those)."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import regard

HEAVY = ("torch", "transformers", "sentence_transformers", "tokenizers", "faiss", "lance", "pyarrow", "onnxruntime",
         "bm25s", "numba", "ir_measures", "scipy", "pandas", "langchain_core", "pypdf", "httpx", "tqdm")
CORE = (*HEAVY, "numpy", "pydantic", "yaml", "rich", "typer")
COMMANDS = {  # what each may load besides typer, of what it does not run
    "search": {"regard.rag.app.cli.search"}, "methods": {"regard.rag.app.cli.methods"},
    "heads detect": {"regard.rag.app.cli.heads"},
}


def _loaded(code: str) -> set[str]:
    """The modules of a fresh Python that has run ``code``."""
    code += "\nimport sys; print(*sys.modules, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_package_itself_loads_nothing() -> None:
    loaded = _loaded("import regard")
    assert {m for m in loaded if m.startswith("regard")} == {"regard"}
    assert not loaded & set(CORE)


def test_the_core_loads_no_library() -> None:
    assert not _loaded("import regard.rag") & set(CORE)


@pytest.mark.parametrize("package", [
    "retrievers", "rerankers", "readers", "indexers", "kernels", "rag.dag.pipeline", "rag.lm", "rag.evaluation",
    "rag.models", "rag.app.rag", "rag.app.rerank", "rag.app.presets"])
def test_other_packages_load_nothing_heavy(package: str) -> None:
    assert not _loaded(f"import regard.{package}") & set(HEAVY)


@pytest.mark.parametrize("name", [n for n in regard.__all__ if n not in ("build_index", "__version__")])
def test_nor_does_any_name_of_the_package_itself(name: str) -> None:
    assert not _loaded(f"from regard import {name}") & (set(HEAVY) - {"httpx"}), "RemoteReader's client is httpx"


def test_help_loads_no_more_than_the_commands_own_files() -> None:
    loaded = _loaded(_command("--help"))
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml"}
    ours = {m for m in loaded if m.startswith("regard.")}
    assert {m for m in ours if not m.startswith("regard.rag.app.cli")} <= {
        "regard.rag", "regard.rag.app", "regard.rag.errors", "regard.rag.files", "regard.rag.markup",
        "regard.rag.tables"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_its_own_file_alone(command: str) -> None:
    loaded = _loaded(_command(*command.split(), "--help"))
    files = {m for m in loaded if m.startswith("regard.rag.app.cli.")}
    assert files - {f"regard.rag.app.cli.{shared}" for shared in ("options", "output")} == COMMANDS[command]


def _command(*arguments: str) -> str:
    return (f"import sys; sys.argv = ['regard', *{list(arguments)!r}]\nfrom regard.rag.app.cli import main\n"
            "try: main()\nexcept SystemExit as end: assert not end.code")


# --- the package itself ----------------------------------------------------------------------------------------


def test_every_name_of_the_package_is_what_its_folder_has() -> None:
    for name, place in regard._PLACES.items():
        module, _, attribute = place.partition(":")
        assert getattr(regard, name) is getattr(__import__(module, fromlist=["_"]), attribute)
    assert {*regard._PLACES, "__version__"} == set(regard.__all__) <= set(dir(regard))


def test_a_star_import_gives_them_all() -> None:
    names: dict[str, Any] = {}
    exec("from regard import *", names)
    assert set(regard.__all__) <= set(names)


def test_the_package_says_its_version_and_what_it_lacks() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert regard.__version__ == project["version"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        regard.nothing  # noqa: B018
    with pytest.raises(ImportError, match="Nothing"):
        exec("from regard import Nothing")
