"""Start-up: imports and `regard --help`, medians over fresh processes. What may be loaded at all:
``tests/test_imports.py``."""

from __future__ import annotations

import subprocess
import sys
import time

from common import Figures, arguments, median

_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
_HELP = [sys.executable, "-m", "regard.rag.app.cli"]
BARS = {
    "import regard": 0.1,
    "import regard.rag": 0.5,
    "from regard import Pipeline, Query, Document, BM25, Dense, Fuse, CrossEncoder, Reader": None,
    "from regard import RAG, rerank": None,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=7, help="processes a figure (default: %(default)s)")
    runs = parser.parse_args().runs
    figures = Figures()
    for statement, bar in BARS.items():
        import_seconds(statement)  # the first of all reads everything from the disk
        spent = median([import_seconds(statement) for _ in range(runs)])
        figures.show(statement, spent, "s", ("<", bar) if bar else None)
    for command in (["--help"], ["search", "--help"], ["methods"]):
        spent = median([seconds([*_HELP, *command]) for _ in range(runs)])
        figures.show(f"regard {' '.join(command)}, whole process", spent, "s",
                     ("<", 1.0) if command == ["--help"] else None)
    figures.exit()


def import_seconds(statement: str) -> float:
    """The import alone, without the interpreter's own start; away from the checkout, where ``rag`` would be in
    reach."""
    code = _IMPORT.format(statement)
    return float(subprocess.run([sys.executable, "-c", code], cwd="/", check=True, capture_output=True).stdout)


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd="/", check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
