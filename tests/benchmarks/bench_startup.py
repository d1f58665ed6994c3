"""Start-up: `import regard.rag` and `regard --help`, medians over fresh processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from common import Figures, arguments, median

_IMPORT = "import time; t = time.perf_counter(); import regard.rag; print(time.perf_counter() - t)"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=7, help="processes a figure (default: %(default)s)")
    runs = parser.parse_args().runs
    regard = str(Path(sys.executable).parent / "regard")
    figures = Figures()
    seconds([regard, "--help"])  # the first of all reads everything from the disk
    figures.show("import regard.rag", median([import_seconds() for _ in range(runs)]), "s", ("<", 0.5))
    figures.show("regard --help, whole process", median([seconds([regard, "--help"]) for _ in range(runs)]), "s", ("<", 1.0))
    figures.exit()


def import_seconds() -> float:
    """The import alone, without the interpreter's own start; away from the checkout, where ``rag`` would be in reach."""
    return float(subprocess.run([sys.executable, "-c", _IMPORT], cwd="/", check=True, capture_output=True).stdout)


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd="/", check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
