"""What the benchmark scripts share: where the collections and indexes are, medians, and one line a figure."""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a figure must not wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_COMPARE = {">": operator.gt, ">=": operator.ge, "<=": operator.le, "<": operator.lt}


class Figures:
    """Prints each figure beside its bar, and remembers whether one was missed."""

    def __init__(self) -> None:
        self.missed = 0

    def show(self, name: str, value: float, unit: str = "", bar: tuple[str, float] | None = None,
             digits: int = 3) -> None:
        """``bar`` is a comparison (``>=``, ``<``, ...) and a number; without one the figure is only reported."""
        verdict = ""
        if bar is not None:
            met = _COMPARE[bar[0]](value, bar[1])
            self.missed += not met
            verdict = f"  (bar: {bar[0]} {bar[1]:g})  {'PASS' if met else 'MISS'}"
        number = f"{value:.2e}" if 0 < abs(value) < 10 ** -digits else f"{value:.{digits}f}"
        print(f"{name}: {number}{' ' + unit if unit else ''}{verdict}", flush=True)

    def exit(self) -> None:
        """End the script: status 1 when a bar was missed."""
        sys.exit(1 if self.missed else 0)


def arguments(description: str | None, *, cache: bool = False) -> argparse.ArgumentParser:
    """A parser with ``--help`` from the script's docstring, and ``--cache`` where the script keeps indexes."""
    home = Path(tempfile.gettempdir()) / "regard-bench"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if cache:
        parser.add_argument("--cache", type=Path, default=home, help="folder that keeps indexes (default: %(default)s)")
    return parser


def collection(name: str) -> Path:
    """The folder of a real collection; ends the script where it is absent."""
    if not (DATA / name).exists():
        sys.exit(f"needs the collection {DATA / name}")
    return DATA / name


def collection_index(name: str, cache: Path, *, encoder: str | None = None) -> Path:
    """The index of a BEIR collection, one passage a document, with every view it can have; built at the first call."""
    from regard.indexers import build_index

    index = cache / f"{name}-{encoder or 'text'}"
    views = ["flat", "bm25"] if encoder else ["bm25"]
    report = build_index(collection(name), index, format="beir", encoder=encoder, chunker="whole", views=views)
    print(f"# {index}: {report.total_passages} passages, {report.encoded} encoded now in {report.encode_seconds:.0f} s",
          flush=True)
    return index


def forget_peak() -> float:
    """Let the process's peak memory begin anew (Linux); the memory resident now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """The greatest resident memory since :func:`forget_peak`, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alternate(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[list[float],
                                                                                               list[float]]:
    """Seconds of each of ``rounds`` runs of both, interleaved, so that a busy moment hits both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for which, call in [(0, first), (1, second)] if turn % 2 == 0 else [(1, second), (0, first)]:
            start = time.perf_counter()
            call()
            times[which].append(time.perf_counter() - start)
    return times


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
