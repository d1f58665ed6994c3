"""Inside ``indexers/`` imports point down its list and make no circle; nothing outside Lance's folder names it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("kernels", "rag", "indexers", "retrievers", "rerankers", "readers")
FLOORS = ("corpus", "chunkers", "encoders", "stores", "views", "jobs")
LANCE = ROOT / "indexers" / "stores" / "lance"
TABLE = ROOT / "indexers" / "stores" / "__init__.py"


def _modules(folder: Path) -> dict[str, Path]:
    return {_name(file): file for file in folder.rglob("*.py")}


def _name(file: Path) -> str:
    return ".".join(("regard", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def _imported(file: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of ``modules`` that a file imports, wherever in it."""
    package = _name(file).split(".") if file.name == "__init__.py" else _name(file).split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom | ast.Import):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        yield from (name for name in names if name in modules and name != _name(file))


def _floor(name: str) -> int | None:
    part = name.removeprefix("regard.indexers").strip(".").partition(".")[0]
    return FLOORS.index(part) if part else None


def test_every_part_of_indexers_has_a_floor() -> None:
    parts = {file.relative_to(ROOT / "indexers").parts[0].removesuffix(".py")
             for file in (ROOT / "indexers").rglob("*.py")}
    assert parts == {*FLOORS, "__init__"}


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down_the_floors(floor: str) -> None:
    modules = _modules(ROOT / "indexers")
    for name, file in modules.items():
        own = _floor(name)
        if own == FLOORS.index(floor):
            above = [other for other in _imported(file, modules) if (_floor(other) or 0) > own]
            assert not above, f"{name} imports {above}"


def test_no_module_of_indexers_is_imported_by_what_it_imports() -> None:
    modules = _modules(ROOT / "indexers")
    graph = {name: set(_imported(file, modules)) for name, file in modules.items() if name != "regard.indexers"}
    TopologicalSorter(graph).prepare()  # raises for a circle, and shows it


def test_a_kind_of_store_knows_no_other_and_what_all_share_knows_none() -> None:
    modules = _modules(ROOT / "indexers")
    for name, file in modules.items():
        wrong = [other for other in _imported(file, modules) if other.startswith("regard.indexers.stores.lance")]
        assert not wrong or LANCE in file.parents, f"{name} imports {wrong}"


@pytest.mark.parametrize("folder", PRODUCT)
def test_nothing_names_lance_outside_its_folder(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        if LANCE in file.parents or file == TABLE:
            continue
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            found = re.search(r"(?<![a-z])lance", token.string, re.IGNORECASE)
            assert not found, f"{file.relative_to(ROOT)}:{token.start[0]}: {token.line.strip()}"
