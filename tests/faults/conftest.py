"""Faults on purpose: a process that does jobs on an index and dies, or finds the disk full, at a system call of our choice."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Worker:
    """``worker.py``, which says what a job is; calling this does one."""

    def __init__(self, faults: Path, script: Path = HERE / "worker.py") -> None:
        path = os.pathsep.join([str(HERE.parent), str(HERE.parent / "indexers"), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen([sys.executable, "-P", str(script), str(faults)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": path})

    def __call__(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Scenario:
    """``act`` on an index that ``prepare`` made (actions of ``worker.py``), with ``view``."""

    name: str
    prepare: str
    act: str
    view: str = ""
    deletes: tuple[str, ...] = ()


@dataclass
class Laboratory:
    """One scenario in the folder ``home``: what it starts from, and what an undisturbed run comes to."""

    scenario: Scenario
    worker: Worker
    home: Path
    looks: tuple[str, ...] = ("state", "uncovered")
    calls: list[list[str]] = field(default_factory=list)
    """The calls of an undisturbed run that change files or have them reach the disk: name, path, second path."""

    def __post_init__(self) -> None:
        self.start, self.index = self.home / "start", self.home / "index"
        if self.scenario.prepare:
            assert "error" not in self.worker(path=str(self.start), act=self.scenario.prepare, view=self.scenario.view)
        self.before: dict[str, Any] = self.worker(path=str(self.start), act="nothing", before=["held"])["result"]["held"]
        self.reset()
        done = self.fault("count", 0, log=str(self.home / "log"))
        assert "result" in done, done
        self.points = done["result"]["counted"]
        self.calls = [line.split("\t") for line in (self.home / "log").read_text().splitlines()]
        self.expected = self.worker(path=str(self.index), act="nothing", after=self.looks)["result"]

    def reset(self) -> None:
        shutil.rmtree(self.index, ignore_errors=True)
        if self.start.exists():
            shutil.copytree(self.start, self.index)

    def fault(self, mode: str, n: int, **more: Any) -> dict[str, Any]:
        return self.worker(path=str(self.index), act=self.scenario.act, view=self.scenario.view, mode=mode, n=n, folder=str(self.index),
                           **more)

    def rerun(self) -> str:
        """What is wrong after a fault (nothing: empty): with what was committed before, with running the same again, with what that
        comes to."""
        done = self.worker(path=str(self.index), act=self.scenario.act, view=self.scenario.view, before=["held"], after=self.looks)
        if "result" not in done:
            return f"wedged: {done.get('says', done)}"
        held = done["result"].pop("held")
        lost = [name for name, texts in self.before.items() if len(held.get(name, ())) != len(texts) and name not in self.scenario.deletes]
        if lost:
            return f"lost {lost}"
        return "" if done["result"] == self.expected else f"another index: {done['result']} instead of {self.expected}"


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faults.c``, compiled."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("faults.c knows the system calls of Linux on x86-64")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("faults.c needs a C compiler: cc, gcc or clang")
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", made, HERE / "faults.c"], check=True)
    return made


@pytest.fixture(scope="session")
def worker(faults: Path) -> Iterator[Worker]:
    one = Worker(faults)
    yield one
    one.close()
