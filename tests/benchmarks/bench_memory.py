"""Memory of an indexing job: 200,000 and 400,000 synthetic passages, a stub 384-d encoder.

Each measurement has its own process. Growth is the peak of the resident set (sampled every 5 ms, and the system's own
ru_maxrss) less what was resident after the imports and a tiny job of the same kind. "Streaming" is the job without
views.
"""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import Figures, arguments
from regard.rag.dag.scope import Scope
from regard.rag.models.encoding import Encoder, OpenEncoder

MB = 1_000_000
WORDS_A_DOCUMENT, VOCABULARY, DIMENSION = 60, 50_000, 384
GROWS_NO_FURTHER = 1.1
"""At twice the passages, at most this much times the growth: what two runs of the same size differ by."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--passages", type=int, default=200_000, help="in the smaller job (default: %(default)s)")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "N"),
                        help="one measurement in this process: streaming or views, and the number of passages")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    n, figures = options.passages, Figures()
    small, large = in_a_process("streaming", n), in_a_process("streaming", 2 * n)
    figures.show(f"streaming {n:,} passages, peak memory growth", small["growth"], "MB", ("<", 300), digits=0)
    figures.show(f"streaming {2 * n:,} passages, peak memory growth", large["growth"], "MB", ("<", 300), digits=0)
    figures.show("streaming growth at twice the passages over growth at once", large["growth"] / small["growth"], "x",
                 ("<=", GROWS_NO_FURTHER), digits=2)
    whole = in_a_process("views", n)
    figures.show(f"{n:,} passages with flat and BM25 views, peak memory growth", whole["growth"], "MB", ("<", 900),
                 digits=0)
    for name, result in {"streaming": small, "streaming, twice": large, "with views": whole}.items():
        figures.show(f"{name}: seconds", result["seconds"], "s", digits=0)
        figures.show(f"{name}: baseline before the job", result["baseline"], "MB", digits=0)
    figures.exit()


def in_a_process(kind: str, n: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", kind, str(n)]
    result: dict[str,
                 float] = json.loads(subprocess.run(command, check=True,
                                                    stdout=subprocess.PIPE).stdout.splitlines()[-1])
    return result


def measure(kind: str, n: int) -> dict[str, float]:
    """Growth in MB (10^6 bytes) of one job over the baseline."""
    import psutil

    folder = Path(tempfile.mkdtemp(prefix="regard-memory-"))
    try:
        build(folder / "tiny", kind, 500)  # imports, thread pools, compiled code
        gc.collect()
        process = psutil.Process()
        baseline, before = process.memory_info().rss, _maxrss()
        with Sampler(process) as sampler:
            start = time.perf_counter()
            build(folder / "index", kind, n)
            seconds = time.perf_counter() - start
        after = _maxrss()
        peak = max(sampler.peak, after if after > before else 0)  # the tiny job's own peak is no part of it
        return {"growth": (peak - baseline) / MB, "baseline": baseline / MB, "seconds": seconds}
    finally:
        shutil.rmtree(folder)


def build(index: Path, kind: str, n: int) -> None:
    from regard.indexers import build_index

    views = ["flat", "bm25"] if kind == "views" else []
    report = build_index(documents(n), index, encoder=StubEncoder(), chunker="whole", views=views, progress=False)
    assert report.total_passages == n, report


def documents(n: int) -> Iterator[Any]:
    """``n`` documents of 60 words whose frequencies follow Zipf's law, the same ones each time, made as they are asked
    for."""
    import numpy as np
    from regard.rag import Document

    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(VOCABULARY)])
    share = np.cumsum(1.0 / np.arange(1, VOCABULARY + 1))
    for first in range(0, n, 500):
        drawn = np.searchsorted(share, rng.random((min(500, n - first), WORDS_A_DOCUMENT)) * share[-1])
        for i, row in enumerate(words[drawn], first):
            yield Document(f"doc-{i}", " ".join([*row, f"number{i}"]))


class OpenStub(OpenEncoder):
    name, dimension = "stub", DIMENSION

    def encode_passages(self, texts: Sequence[str]) -> Any:
        import numpy as np

        seed = int.from_bytes(hashlib.blake2b("\n".join(texts).encode(), digest_size=8).digest(), "little")
        vectors = np.random.default_rng(seed).standard_normal((len(texts), DIMENSION), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class StubEncoder(Encoder):
    """Unit vectors that depend on what is encoded, at no cost worth the name."""

    name, dimension = "stub", DIMENSION

    def description(self) -> dict[str, Any]:
        return {"kind": "stub", "model": self.name, "dimension": DIMENSION, "normalize": True}

    def open(self, scope: Scope, /) -> OpenEncoder:
        return OpenStub()


class Sampler:
    """Watches the resident set in a thread; ``peak`` in bytes."""

    def __init__(self, process: Any, seconds: float = 0.005) -> None:
        self.process = process
        self.seconds = seconds
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(self.seconds):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def _maxrss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
