"""Arrows inside the folders, circles anywhere, and one name for one thing: read from the source, so that imports inside
functions and under ``TYPE_CHECKING`` count."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("kernels", "rag", "indexers", "retrievers", "rerankers", "readers")

BOTTOM = ("errors", "text", "progress", "files", "tables", "markup", "plain", "trust")
MAY_IMPORT = {  # of rag's folders, beside themselves: what is said in their docstrings
    "nouns": {"errors", "tables"},
    "show": {"nouns", "dag.graph", "dag.trace", "models.verification", *BOTTOM},
}
ORDER = {  # files of a folder, each of which imports only those before it
    "nouns": ["plain", "text", "query", "store", "evidence", "spaces", "frames", "ranking", "answer", "verdict",
              "batch", ""],
    "show": ["", "style", "labels", "layout", "drawing", "display", "attention", "report"],
}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def _imports(module: str) -> set[str]:
    """The modules of Regard that this one imports; all its imports are relative (see ``test_layout``)."""
    parts = module.split(".")
    package = parts if MODULES[module].name == "__init__.py" else parts[:-1]
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[:len(package) - node.level + 1], *filter(None, [node.module])])
            found |= {full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found - {module}


ARROWS = {module: _imports(module) for module in MODULES}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_of_rag_imports_what_it_says(folder: str) -> None:
    allowed = tuple(f"rag.{name}" for name in (folder, *MAY_IMPORT[folder]))
    for module, targets in ARROWS.items():
        if f"{module}.".startswith(f"rag.{folder}."):
            wrong = {target for target in targets if not any(f"{target}.".startswith(f"{name}.") for name in allowed)}
            assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("folder", ORDER)
def test_the_files_of_a_folder_import_those_before_them(folder: str) -> None:
    place = {f"rag.{folder}.{name}".rstrip("."): number for number, name in enumerate(ORDER[folder])}
    assert set(place) == {module for module in MODULES if f"{module}.".startswith(f"rag.{folder}.")}
    wrong = {(m, target) for m in place for target in ARROWS[m] if place.get(target, -1) >= place[m]}
    assert not wrong


def _circles() -> Iterator[set[str]]:
    """Sets of modules that import each other, by what each reaches."""
    reached: dict[str, set[str]] = {}
    for module in MODULES:
        seen, left = set(), [module]
        while left:
            new = ARROWS[left.pop()] & MODULES.keys() - seen
            seen |= new
            left += new
        reached[module] = seen
    for module in MODULES:
        if module in reached[module]:
            yield {other for other in reached[module] if module in reached[other]}


@pytest.mark.parametrize("folder",
                         [*TOPS[:1], *(f"rag.{path.name}" for path in sorted((ROOT / "rag").glob("*/"))), *TOPS[2:]])
def test_there_are_no_circles(folder: str) -> None:
    assert not [circle for circle in _circles() if any(f"{module}.".startswith(f"{folder}.") for module in circle)]


def _names(module: str) -> Iterator[str]:
    """Public classes that a module defines, and aliases of types: names in capitals and small letters, longer than a
    type variable's."""
    for node in TREES[module].body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if name[0].isupper() and not name.isupper() and len(name) > 1)


PENDING = {"Positions", "Shard", "Table"}
"""Aliases of ``indexers/views``, which is being rewritten."""


def test_one_name_means_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        for name in _names(module):
            places[name].append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1 and name not in PENDING}
