"""What the tests do not notice: each run of them has one small fault ("mutant") in one module, and should fail.

    python tests/mutants/run.py --sample 300                          # over all of TARGETS, the same 300 each time
    python tests/mutants/run.py --paths rag/evaluation --sample 0     # every mutant of these

A mutant lives in a forked process that compiles the changed syntax tree in place of the module; no file is touched.
Libraries are imported before the fork, so that a mutant costs its tests' own time. Results go to a file of JSON lines:
what was killed is not run again, what survived is once its tests have changed. ``equivalent.txt`` names mutants that no
test can or need kill, with reasons. The exit status is 1 where fewer than 80 % of the others are killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from faults import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
BAR = 0.8
RUNS = ("rag/evaluation/test_evaluation_runs.py",)
METRICS = ("rag/evaluation/test_evaluation_metrics.py",)
VIEWS = ("indexers/views/test_views.py", "indexers/views/test_faiss_fused.py", "indexers/views/test_faiss_filtered.py")
ATTENTION_VIEWS = ("indexers/views/test_attention_view.py", "rag/test_attention_view.py")
TARGETS: dict[str, tuple[str, ...]] = {  # module or folder -> its tests, the telling ones first
    "rag/evaluation/significance.py": ("rag/evaluation/test_significance.py", *METRICS),
    "rag/evaluation/metrics.py": METRICS,
    "rag/evaluation/answers.py": METRICS,
    "rag/evaluation/runs.py": RUNS,
    "rag/evaluation/trec.py": RUNS,
    "rag/evaluation/beir.py": RUNS,
    "rag/evaluation/order.py": ("rag/evaluation/test_order_sensitivity.py",),
    "rag/dag/stage.py": ("rag/dag/test_stage.py", "rag/dag/test_pipeline.py", "rag/dag/test_config.py",
                         "retrievers/test_retrievers.py"),
    "rag/dag/control.py": ("rag/dag/test_control.py",),
    "rag/dag/cache.py": ("rag/dag/test_stage.py", "rag/dag/test_control.py"),
    "rag/dag/ports.py": ("rag/dag/test_ports.py", "rag/dag/test_pipeline.py"),  # out of rag/dag/stage.py
    "indexers/views": VIEWS,
    "indexers/views/files.py": (*VIEWS,
                                "indexers/views/test_attention_view.py::test_a_damaged_shard_is_refused_and_mended"),
    "indexers/views/kind.py": (
        "indexers/views/test_views.py::test_names_of_views_round_trip_and_wrong_ones_are_refused",
        "indexers/views/test_views.py::test_every_setting_decides_a_folder_and_only_it",
        "indexers/views/test_views.py::test_folders_of_views_are_names_and_never_shared",
        "indexers/views/test_views.py::test_a_view_without_its_encoder_or_with_one_it_does_not_take",
        "indexers/views/test_attention_view.py::test_names_of_attention_views",
        "indexers/views/test_attention_view.py::test_a_head_set_says_which_layers_a_view_needs",
    ),
    "indexers/views/attention": ATTENTION_VIEWS,
    "retrievers": ("retrievers",),
    "rerankers/attention/policies": ("rerankers/test_policies.py", "rerankers/test_attention.py"),
}
LIBRARIES = ("numpy", "pytest", "_hypothesis_pytestplugin", "hypothesis.strategies", "pydantic", "pyarrow",
             "ir_measures", "scipy.stats",
             "typer", "rich.table", "yaml", "faiss", "bm25s", "Stemmer", "onnxruntime", "torch", "transformers")
# only imported: none has started a thread that a fork would lose. Lance has a runtime of its own and stays out.


def _target(path: str) -> str:
    return max((target for target in TARGETS if path == target or path.startswith(f"{target}/")), key=len, default="")


def tests_of(path: str) -> tuple[str, ...]:
    return tuple(f"tests/{test}" for test in TARGETS[_target(path)])


def run_tests(tests: tuple[str, ...], mutant: Mutant | None, seconds: float) -> str:
    """"killed", "survived" or "timeout": pytest in a forked process in which the mutant's module is the mutant."""
    folder = tempfile.mkdtemp(prefix="mutant-")
    child = os.fork()
    if not child:
        os._exit(_child(tests, mutant, folder))
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if status == 5:
        raise SystemExit(f"{' '.join(tests)} hold no test")
    return "timeout" if status is None else "killed" if status else "survived"


def _child(tests: tuple[str, ...], mutant: Mutant | None, folder: str) -> int:
    import pytest

    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (12 << 30, 12 << 30))  # a loop that no longer ends
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    if mutant is not None:
        module = "regard." + mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        code, original = compile(mutant.make(), str(ROOT / mutant.path), "exec"), SourceFileLoader.get_code
        SourceFileLoader.get_code = lambda self, name: code if name == module else original(self, name)
    return int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin",
                            "--hypothesis-seed=0",
                            "--hypothesis-profile=mutants", f"--basetemp={folder}/tests"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs="+", default=list(TARGETS), help="modules or folders below TARGETS")
    parser.add_argument("--sample", type=int, default=300,
                        help="how many mutants, chosen by a hash of their names; 0: all")
    parser.add_argument("--out", type=Path, default=ROOT / "mutants.jsonl",
                        help="results, added to; delete it to begin anew")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, to be called again; 0: never")
    options = parser.parse_args()
    os.chdir(ROOT)
    files = sorted({str(f.relative_to(ROOT)) for f in _python_files(options.paths)})
    every = [mutant for path in files if _target(path) for mutant in mutants_of(path, (ROOT / path).read_text())]
    sample = sorted(every, key=lambda mutant: hashlib.blake2b(mutant.name.encode()).digest())[:options.sample or None]
    chosen = sorted(sample, key=lambda mutant: (mutant.path, mutant.line))
    accepted = _accepted()
    return _report(chosen, _run(chosen, options.out, options.minutes, accepted), accepted)


def _run(chosen: list[Mutant], out: Path, minutes: float, accepted: dict[str, str]) -> dict[str, str]:
    """Run what ``out`` does not hold yet; each mutant's result by its name."""
    _prepare()
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {row["name"]: row for row in rows}  # a mutant's result; and under its digest, how long a set of tests takes
    begun = time.monotonic()
    with out.open("a") as file:
        def note(name: str, **row: Any) -> None:
            known[name] = {"name": name, **row}
            print(json.dumps(known[name]), file=file, flush=True)

        for number, mutant in enumerate(chosen, 1):
            tests = tests_of(mutant.path)
            digest = hashlib.blake2b("".join(f.read_text() for f in _python_files(tests)).encode(),
                                     digest_size=8).hexdigest()
            row = known.get(mutant.name)
            if row and (row["result"] != "survived" or row["tests"] == digest or mutant.name in accepted):
                continue
            if minutes and time.monotonic() - begun > 60 * minutes:
                break
            if digest not in known:
                start = time.monotonic()
                if run_tests(tests, None, 600) != "survived":
                    raise SystemExit(f"{' '.join(tests)} fail without any mutant")
                note(digest, seconds=time.monotonic() - start)
            result = run_tests(tests, mutant, 15 + 4 * known[digest]["seconds"])
            note(mutant.name, result=result, tests=digest)
            print(f"{number}/{len(chosen)} {result:8} {mutant.path}:{mutant.line} {mutant.name.partition(': ')[2]}",
                  flush=True)
    return {mutant.name: known[mutant.name]["result"] for mutant in chosen if mutant.name in known}


def _prepare() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    from hypothesis import Phase, settings

    # one failure is enough, and need not be small
    settings.register_profile("mutants", max_examples=25, phases=[Phase.explicit, Phase.generate], database=None,
                              deadline=None)
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _python_files(paths: Iterable[str]) -> list[Path]:
    paths = [path.partition("::")[0] for path in paths]  # a single test stands for its file
    return [f for path in paths
            for f in ([ROOT / path] if path.endswith(".py") else sorted((ROOT / path).rglob("*.py")))]


def _accepted() -> dict[str, str]:
    """Name -> reason: a name stands alone on its line, its reason is indented below it."""
    blocks = EQUIVALENT.read_text().split("\n\n") if EQUIVALENT.exists() else []
    lines = [block.strip().split("\n", 1) for block in blocks if block.strip() and not block.startswith("#")]
    return {name: " ".join(reason.split()) for name, reason in lines}


def _report(chosen: list[Mutant], results: dict[str, str], accepted: dict[str, str]) -> int:
    ran = [m for m in chosen if m.name in results]
    counted = [m for m in ran if not (m.name in accepted and results[m.name] == "survived")]
    survivors = [m for m in counted if results[m.name] == "survived"]
    for mutant in survivors:
        print(f"\nsurvived {mutant.path}:{mutant.line}\n{mutant.name}")
    print()
    for path in sorted({m.path for m in ran}):
        here = [m for m in counted if m.path == path]
        print(f"{path}: {sum(m not in survivors for m in here)} of {len(here)} killed, "
              f"{sum(m.path == path for m in ran) - len(here)} accepted")
    share = 1 - len(survivors) / max(len(counted), 1)
    print(f"\n{len(counted) - len(survivors)} of {len(counted)} killed ({share:.1%}; the bar is {BAR:.0%}), "
          f"{len(ran) - len(counted)} accepted, {len(chosen) - len(ran)} not run")
    return int(share < BAR or len(ran) < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
