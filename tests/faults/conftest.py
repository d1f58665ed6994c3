"""Faults on purpose: a process that does jobs on an index and dies, or finds the disk full, at a system call of our
choice."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Worker:
    """``worker.py``, which says what a job is; calling this does one."""

    def __init__(self, faults: Path, script: Path = HERE / "worker.py") -> None:
        path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen([sys.executable, "-P", str(script), str(faults)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE,
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


@dataclass(frozen=True)
class Scenario:
    """``act`` on an index that ``prepare`` made (actions of ``worker.py``); the index has ``view``, or gets it where
    ``act`` is that."""

    prepare: str
    act: str
    view: str = ""
    deletes: tuple[str, ...] = ()


GONE = ("d1", "d6", "d7")
SCENARIOS = {
    "create": Scenario("", "first"),
    "append": Scenario("first", "append"),
    "update": Scenario("first", "update"),
    "delete": Scenario("first", "delete", deletes=GONE),
    "add an encoder": Scenario("without_encoder", "add_encoder"),
    "add an encoder to no passages": Scenario("only_empty", "add_encoder"),
    **{f"add {view}": Scenario("first", "add_view", view)
       for view in ("bm25", "faiss:flat", "faiss:hnsw", "faiss:ivf", "attention")},
    **{f"append with {view}": Scenario("first", "append", view)
       for view in ("bm25", "faiss:flat", "faiss:hnsw", "attention")},
    "compact": Scenario("grown", "compacted", "bm25"),
    "purge": Scenario("grown", "purged", "bm25", GONE),
    "delete with bm25": Scenario("first", "delete", "bm25", GONE),
    "delete with attention": Scenario("first", "delete", "attention", GONE),
}


class Laboratory:
    """One scenario in the folder ``home``: what it starts from, what an undisturbed run does and comes to, and what
    faults do to it.

    ``calls``: those of an undisturbed run that change files, or have them reach the disk: name, path, second path.
    ``points``: how many of them change files. ``bytes``: what they write; ``largest``: the size of the largest file.
    """

    def __init__(
        self, scenario: Scenario, worker: Worker, home: Path, model: str = "",
        looks: Sequence[str] = ("state", "uncovered"),
    ) -> None:
        self.scenario = scenario
        self.looks = looks
        self.start, self.index = home / "start", home / "index"
        self._worker = worker
        self._view = f"attention:{model}" if scenario.view == "attention" else scenario.view
        if scenario.prepare:
            self._do(self.start, act=scenario.prepare, view="" if scenario.act == "add_view" else self._view)
        self.before = self._do(self.start, act="nothing", before=["held"])["held"]
        self.points = self._counted("count", log=str(home / "log"))
        self.calls = [line.split("\t") for line in (home / "log").read_text().splitlines()]
        self.expected = self._do(self.index, act="nothing", after=self.looks)
        self.largest = max(file.stat().st_size for file in self.index.rglob("*") if file.is_file())
        self.bytes = self._counted("full", n=1 << 40)

    def reset(self) -> None:
        shutil.rmtree(self.index, ignore_errors=True)
        if self.start.exists():
            shutil.copytree(self.start, self.index)

    def fault(self, **fault: Any) -> dict[str, Any]:
        """Do the scenario's act with a fault (see ``worker.perform``) on the index as it starts from; what came of
        it."""
        self.reset()
        return self._worker(path=str(self.index), act=self.scenario.act, view=self._view, folder=str(self.index),
                            **fault)

    def rerun(self) -> str:
        """What is wrong after a fault (nothing: empty): with what was committed before, with running the same again,
        with what that comes to."""
        done = self._worker(path=str(self.index), act=self.scenario.act, view=self._view, before=["held"],
                            after=self.looks)
        if "result" not in done:
            return f"wedged: {done.get('says', done)}"
        held = done["result"].pop("held")
        lost = [name for name, texts in self.before.items() if len(held.get(name, ())) != len(texts)
                and name not in self.scenario.deletes]
        if lost:
            return f"lost {lost}"
        return "" if done["result"] == self.expected else f"another index: {done['result']} instead of {self.expected}"

    def _counted(self, mode: str, **more: Any) -> int:
        done = self.fault(mode=mode, **more)
        assert "result" in done, done
        count: int = done["result"]["counted"]
        return count

    def _do(self, path: Path, **job: Any) -> dict[str, Any]:
        done = self._worker(path=str(path), **job)
        assert "result" in done, done
        result: dict[str, Any] = done["result"]
        return result


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


@pytest.fixture(scope="session")
def tiny_model(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("faults-model") / "tiny"
    done = worker(path=str(folder), act="model")
    assert "result" in done, done
    return str(folder)


@pytest.fixture(scope="session")
def laboratory(worker: Worker, tmp_path_factory: pytest.TempPathFactory,
               request: pytest.FixtureRequest) -> Callable[[str], Laboratory]:
    """The laboratory of the scenario of this name."""
    made: dict[str, Laboratory] = {}

    def one(name: str) -> Laboratory:
        if name not in made:
            scenario = SCENARIOS[name]
            model = request.getfixturevalue("tiny_model") if scenario.view == "attention" else ""
            made[name] = Laboratory(scenario, worker, tmp_path_factory.mktemp("faults-laboratory"), model)
        return made[name]

    return one


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``scenario`` is run on each, by name."""
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize("scenario", list(SCENARIOS))
