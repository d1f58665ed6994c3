"""The house rules that a machine can check: packages, import arrows, import time."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "kernels": set(), "rag": {"kernels"}, "indexers": {"rag", "kernels"}, "retrievers": {"indexers", "rag", "kernels"},
    "rerankers": {"rag", "kernels"}, "readers": {"rag", "kernels"},
}
ROOF = (ROOT / "rag" / "app", ROOT / "rag" / "top")
"""May import every folder; nothing imports them."""
KERNEL_LIBRARIES = {"torch", "triton", "numpy", "numba", "llvmlite"}


def _packages_on_disk() -> set[str]:
    folders = {file.parent for name in MAY_IMPORT for file in (ROOT / name).rglob("*.py")} - {ROOT / "rag" / "top"}
    return {"regard." + ".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"regard"}


def test_pyproject_lists_every_package() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(config["packages"]) == sorted(_packages_on_disk())  # a list: none twice
    assert config["package-dir"] == {"regard": "rag/top"} | {f"regard.{name}": name for name in MAY_IMPORT}


def test_every_top_package_is_typed_and_says_what_it_is() -> None:
    for name in MAY_IMPORT:
        assert (ROOT / name / "py.typed").exists()
        text = ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text())) or ""
        said = " ".join(text.split())
        assert "May import" in said, f"{name}/__init__.py must say what lives there and what it may import"


def _imported_folders(path: Path) -> set[str]:
    """Top-level folders of Regard that a module imports, absolutely or relatively."""
    parts = ["regard", *path.relative_to(ROOT).with_suffix("").parts]
    package = parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module or "").split(".")]
            full = [[n for n in names if n] + [alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            full = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {f[1] for f in full if len(f) > 1 and f[0] == "regard"} | {f"bare {f[0]}" for f in full
                                                                            if f[0] in MAY_IMPORT}
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down_only(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        allowed = set(MAY_IMPORT) if set(ROOF) & set(path.parents) else MAY_IMPORT[folder] | {folder}
        wrong = _imported_folders(path) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_kernels_import_tensor_libraries_only() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            tops = {n.split(".")[0] for n in names}
            assert tops <= KERNEL_LIBRARIES | sys.stdlib_module_names, f"{path.name} imports {tops}"


def _imported_modules(path: Path) -> set[str]:
    """Every module that a file's imports could name, absolute: of ``from .a import b`` both ``.a`` and ``.a.b``."""
    package = ["regard", *path.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def test_nothing_imports_the_roof() -> None:
    for folder in MAY_IMPORT:
        for path in (ROOT / folder).rglob("*.py"):
            if not set(ROOF) & set(path.parents):
                above = {m for m in _imported_modules(path) if f"{m}.".startswith("regard.rag.app.")}
                assert not above, path.relative_to(ROOT)


def test_files_never_load_code() -> None:
    """No pickle, no remote code, no unsafe YAML anywhere in the product."""
    for folder in MAY_IMPORT:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                    assert not {"pickle", "dill", "marshal", "shelve"} & set(names), path
                if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                    assert isinstance(node.value, ast.Constant), path
                    assert node.value.value is False, path
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml":
                    assert node.attr in ("safe_load", "SafeLoader", "safe_dump", "SafeDumper", "dump",
                                         "YAMLError"), path
