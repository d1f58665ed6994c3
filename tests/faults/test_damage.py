"""Random damage to any file of an index: no crash, no raw error, nothing silently wrong of what ``verify`` calls whole,
views mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def cases(base: Path, seeds: Iterable[int], kind: str) -> Iterator[dict[str, Any]]:
    """What became of each damage; a worker that crashes is followed by another."""
    worker = None
    for seed in seeds:
        if worker is None:
            worker = start(base, kind)
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(seed, file=worker.stdin, flush=True)
        began, ended = worker.stdout.readline(), worker.stdout.readline()
        if ended:
            yield json.loads(ended)
        else:
            yield {**json.loads(began), "crash": worker.wait()}
            worker = None
    if worker is not None:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()


def start(base: Path, kind: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "REGARD_CACHE": str(base / "memory"), "REGARD_FSYNC": "0",
                   "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-P", str(HERE / "damage_worker.py"), str(base), kind],
                              stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=(base / "errors").open("a"), text=True, env=environment)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n", (base / "errors").read_text()[-3000:]
    return worker


def faults(done: dict[str, Any]) -> list[str]:
    """What must not be, of one case."""
    found = []
    if "crash" in done:
        return ["crash"]
    if done["raw"]:
        found.append("raw")
    if done.get("whole") and (done["wrong"] or done["typed"]):
        found.append("silently wrong")
    if done.get("mended", True) is not True:
        found.append("not mended")
    return found


def check(base: Path, seeds: Iterable[int], kind: str = "search") -> None:
    results = list(cases(base, seeds, kind))
    table = Counter(fault for done in results for fault in faults(done))
    table["cases"] = len(results)
    table["damage found by verify"] = sum(done.get("whole") is False for done in results)
    table["views mended by regard index"] = sum(done.get("mended") is True for done in results)
    table["stores whole after --repair"] = sum(done.get("repaired") is True for done in results)
    table["stores not mended by --repair"] = sum(done.get("repaired", True) is not True for done in results)
    table["wrong before verify"] = sum(bool(done.get("wrong")) for done in results)
    out = os.environ.get("REGARD_DAMAGE_TABLE")
    if out:
        Path(out).write_text(json.dumps({"table": table, "cases": results}, indent=1))
    assert not [done for done in results if faults(done)], table


def test_random_damage(tmp_path: Path) -> None:
    check(tmp_path, range(50))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_damage_to_keys_and_values(tmp_path: Path) -> None:
    check(tmp_path, range(int(os.environ.get("REGARD_DAMAGES", "200"))), "attention")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_random_damages(tmp_path: Path) -> None:
    check(tmp_path, range(1000, 1000 + int(os.environ.get("REGARD_DAMAGES", "1000"))))
