"""A disk that is full, or a limit on files' sizes: a typed error that says what to do, nothing committed is lost, and
once there is room the same command comes to what an undisturbed run does."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from regard.indexers.stores.lance.commits import deletions_size

SIZES = 40
SAMPLED = 2
"""Sizes of each scenario and kind in a default run."""


def sizes(lab: Any, kind: str) -> list[dict[str, Any]]:
    """The disk takes so many bytes more; or no file may be larger than that, and small files go on to be written."""
    if kind == "full":
        return [{"mode": "full", "n": lab.bytes * i // SIZES} for i in range(SIZES)]
    return [{"file_limit": int(1.5 * lab.largest * i / SIZES)} for i in range(SIZES)]


def wrong_after(lab: Any, chosen: Sequence[dict[str, Any]]) -> list[Any]:
    found = []
    for fault in chosen:
        outcome = lab.fault(**fault)
        typed = "result" in outcome or (outcome.get("error") == "StorageError" and outcome["hint"])
        wrong = lab.rerun()
        if wrong or not typed:
            found.append((fault, outcome, wrong))
    return found


@pytest.mark.parametrize("kind", ["full", "limit"])
def test_some_full_disks_cost_nothing_but_a_rerun(scenario: str, kind: str, laboratory: Callable[[str], Any]) -> None:
    lab = laboratory(scenario)
    assert wrong_after(lab, random.Random(scenario).sample(sizes(lab, kind), SAMPLED)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "limit"])
def test_full_disks_of_forty_sizes_cost_nothing_but_a_rerun(scenario: str, kind: str,
                                                            laboratory: Callable[[str], Any]) -> None:
    lab = laboratory(scenario)
    assert wrong_after(lab, sizes(lab, kind)) == []


def test_a_file_that_the_disk_cut_off_is_not_committed(laboratory: Callable[[str], Any]) -> None:
    """Lance writes the end of a file behind its own back, and does not learn that the disk refused it."""
    lab = laboratory("append")
    data = max(file.stat().st_size for file in (lab.start / "passages.lance" / "data").iterdir())
    outcome = lab.fault(file_limit=data - 1)
    assert outcome["error"] == "StorageError", outcome
    assert "everything committed before is safe" in outcome["says"]
    assert lab.rerun() == ""


@pytest.mark.parametrize("condition",
                         ["x IN (1, 2, 3)", "x % 2 = 0 AND x < 150000 OR x > 190000", "x % 7 = 3", "x < 70000"])
def test_deletions_that_are_cut_off_are_told(condition: str, tmp_path: Path) -> None:
    """In both of Lance's formats, which say by their first bytes how long they are."""
    dataset = lance.write_dataset(pa.table({"x": np.arange(200_000)}), str(tmp_path / "d.lance"))
    fragment = dataset.get_fragment(0).delete(condition)
    data = (tmp_path / "d.lance" / fragment.deletion_file.path(0)).read_bytes()
    assert deletions_size(data) == len(data)
    for length in {*range(40), *random.Random(1).sample(range(len(data)), 40), len(data) - 1}:
        assert deletions_size(data[:length]) != length


# -- a real file system ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of so many KiB; skips where that is not allowed."""
    home = tmp_path / "disk"
    home.mkdir()

    def mount(kib: int) -> Path:
        subprocess.run(["umount", home], check=False, capture_output=True)
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", home], check=False,
                              capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
        return home

    if os.geteuid():
        pytest.skip("only root mounts file systems")
    yield mount
    subprocess.run(["umount", home], check=False, capture_output=True)


@pytest.mark.slow
def test_a_small_file_system_that_is_full(small_disk: Callable[[int], Path], worker: Any) -> None:
    """At forty sizes; the rest of the work is done after the same file system has grown."""
    outcomes = []
    for kib in range(8, 8 + 8 * SIZES, 8):
        index = small_disk(kib) / "i"
        outcome = worker(path=str(index), act="first", view="bm25")
        outcomes.append(outcome.get("error", "done"))
        assert outcome.get("error", "StorageError") == "StorageError", outcome
        subprocess.run(["mount", "-o", "remount,size=64m", index.parent], check=True)
        done = worker(path=str(index), act="first", view="bm25", after=["state", "uncovered"])
        assert "result" in done, done
        assert len(done["result"]["state"]["passages"]) == 8
        assert done["result"]["uncovered"] == []
    assert set(outcomes) == {"StorageError", "done"}
