"""Packages that not everybody needs: without them all of Regard imports, and what needs one says which extra brings
it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from regard.rag.errors import MissingDependency
from regard.rag.extras import EXTRAS, install, need
from regard.rag.models import resolve

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
OTHERS = {"cpu", "gpu", "dev", "all"}


def _langchain(folder: Path) -> None:
    sys.modules.pop("regard.rag.app.integrations.langchain", None)
    import_module("regard.rag.app.integrations.langchain")


def _pdf(folder: Path) -> None:
    from regard.indexers import build_index

    (folder / "docs").mkdir()
    (folder / "docs" / "a.pdf").write_bytes(b"%PDF-1.4")
    build_index(folder / "docs", folder / "index", encoder=None, views=["bm25"], progress=False)


def _metrics(folder: Path) -> None:
    from regard.rag.evaluation import evaluate

    evaluate({"q": {"d": 1.0}}, {"q": {"d": 1}})


def _onnx(folder: Path) -> None:
    from regard.rag.models.onnx import OnnxModel

    OnnxModel.acquire(resolve("minilm-cross-encoder").path)


def _gguf(folder: Path) -> None:
    from regard.rag.lm.loading import configuration

    configuration(resolve("smollm2"))


def _gguf_weights(folder: Path) -> None:
    from regard.rag.lm.gguf import converted

    converted(resolve("smollm2"))


USES: dict[str, list[Callable[[Path], None]]] = {
    "langchain_core": [_langchain], "pypdf": [_pdf], "ir_measures": [_metrics], "onnxruntime": [_onnx],
    "gguf": [_gguf, _gguf_weights], "accelerate": [_gguf, _gguf_weights],
}


@pytest.mark.parametrize(("module", "use"), [(m, use) for m, uses in USES.items() for use in uses])
def test_what_needs_a_package_names_the_extra_that_brings_it(
    module: str, use: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))  # where no converted model is
    kept = sys.modules.get("regard.rag.app.integrations.langchain")
    for name in [module, *(n for n in sys.modules if n.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency) as raised:
        use(tmp_path)
    extra = EXTRAS[module][1]
    assert raised.value.hint == f"pip install 'regard[{extra}]'" == install(module)
    assert raised.value.what == f"{EXTRAS[module][0]} is not installed"
    assert raised.value.where
    if kept is not None:
        sys.modules["regard.rag.app.integrations.langchain"] = kept


def test_every_such_package_is_used_above() -> None:
    assert USES.keys() == EXTRAS.keys()


def test_without_any_of_them_everything_else_imports() -> None:
    code = f"""
import importlib, pkgutil, sys
for module in {sorted(EXTRAS)!r}:
    sys.modules[module] = None
skipped = ("regard.kernels.gpu", "regard.rag.app.integrations.langchain", "regard.rag.top")
for folder in ("rag", "indexers", "retrievers", "rerankers", "readers", "kernels"):
    package = importlib.import_module("regard." + folder)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.startswith(skipped) and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(sum(name.startswith("regard.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", one)[0].lower() for one in requirements}


def test_the_extras_hold_what_the_errors_promise() -> None:
    for distribution, extra in EXTRAS.values():
        assert distribution in _names(OPTIONAL[extra])
    assert {extra for _, extra in EXTRAS.values()} == OPTIONAL.keys() - OTHERS
    (whole,) = OPTIONAL["all"]
    assert set(re.findall(r"\w+", whole.partition("[")[2])) == OPTIONAL.keys() - OTHERS


def test_the_default_install_runs_the_default_pipeline() -> None:
    """What the demo and the README's first page load, besides FAISS, which is one of two extras."""
    assert {"gguf", "accelerate", "onnxruntime", "sentence-transformers", "transformers", "torch", "pylance", "bm25s",
            "pystemmer", "httpx"} <= _names(PROJECT["dependencies"])
    assert not {"langchain-core", "pypdf", "ir-measures"} & _names(PROJECT["dependencies"])


def test_every_dependency_is_pinned() -> None:
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in constraints if "==" in line and not line.startswith("#")}
    pinned = {name.replace("_", "-") for name in pinned}
    asked = _names(PROJECT["dependencies"]).union(*(_names(found) for name, found in OPTIONAL.items() if name != "gpu"))
    assert {name.replace("_", "-") for name in asked} - pinned - {"regard"} == set()


def test_a_package_that_is_there_is_no_error() -> None:
    for module in EXTRAS:
        need(module, where="here")
