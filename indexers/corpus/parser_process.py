"""The process that parses what could be slow or large: PDFs, long HTML and long Markdown. Run by ``parsing``, as a
script.

It reads requests from standard input and writes answers to standard output, and ends when its parent does. The kernel
holds it to its limits, so that neither a regular expression nor a C library can get past them: a timer ends it in the
midst of a document that takes too long, and an allocation beyond its memory fails.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import types
from pathlib import Path

WALL = 10
"""A document may take so many times its processor time by the clock, on a busy machine."""

OUT_OF_MEMORY = 3
"""The exit status of a process that could not allocate."""


def main(memory: int) -> None:
    """Answer requests: a line ``kind seconds characters size`` and ``size`` bytes, with a line of the answer's size and
    its JSON."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between
    parsers = _parsers()
    _limit_memory(memory)
    for request in iter(sys.stdin.buffer.readline, b""):
        kind, seconds, characters, size = request.decode().split()
        answer = _parse(parsers, kind, sys.stdin.buffer.read(int(size)), int(seconds), int(characters))
        answers.write(b"%d\n" % len(answer) + answer)
        answers.flush()


def _parsers() -> types.ModuleType:
    """The package ``corpus`` without its parents, which would bring numpy and what not."""
    package = types.ModuleType("corpus")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["corpus"] = package
    return importlib.import_module("corpus.parsers")


def _limit_memory(memory: int) -> None:
    """``memory`` bytes beyond what is taken now; no limit where the system does not tell how much that is (macOS)."""
    held = Path("/proc/self/statm")
    if held.exists():
        limit = int(held.read_text().split()[0]) * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _parse(parsers: types.ModuleType, kind: str, data: bytes, seconds: int, characters: int) -> bytes:
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)
    answer = json.dumps(parsers.answer(kind, data, characters), ensure_ascii=False).encode("utf-8", "surrogatepass")
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answer


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
