"""What checking costs: opening each view (first on this machine, and after that), fetching passages, and ``verify``, of
a synthetic index.

Run: ``python tests/benchmarks/bench_verify.py --passages 1000000 --index /tmp/verify``; with ``REGARD_CHECK_VIEWS=0``
for sizes only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from regard.indexers.stores.changes import Changes
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.indexers.views import build_view, open_view, parse_view
from regard.rag import Passage

WORDS = np.array([f"word{i}" for i in range(30_000)])
BLOCK = 50_000


def make(index: Path, passages: int, dimension: int) -> None:
    draw = np.random.default_rng(0)
    fingerprint = {"kind": "random", "model": "random", "dimension": dimension, "normalize": True}
    chunker = {"spec": "whole", "fingerprint": {}}
    with locked(index):
        writer = StoreWriter(index, chunker=chunker, encoders={"random": fingerprint})
        for start in range(0, passages, BLOCK):
            texts = [" ".join(row) for row in WORDS[draw.zipf(1.3, (BLOCK, 40)) % len(WORDS)]]
            vectors = draw.standard_normal((BLOCK, dimension), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            shard = Changes([Passage(f"p{start + i}", f"p{start + i}", text, 0, len(text))
                             for i, text in enumerate(texts)],
                          [b"0" * 16] * BLOCK, {"random": vectors})
            writer.commit(shard, start)
    for view in ("flat", "bm25"):
        build_view(LanceStore(index), parse_view(view, "random"), progress=False)


def timed(act: Callable[[], Any], times: int = 1) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken)), 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    if not arguments.index.exists():
        make(arguments.index, arguments.passages, arguments.dimension)
    found: dict[str, Any] = {"passages": arguments.passages}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["REGARD_CACHE"] = cache
        for view in ("flat", "bm25"):
            spec = parse_view(view, "random")

            def opened(spec: Any = spec) -> None:
                open_view(LanceStore(arguments.index), spec)

            found[f"{view} first s"], found[f"{view} then s"] = timed(opened), timed(opened, 5)
        shutil.rmtree(cache)
        Path(cache).mkdir()
    if arguments.verify:
        from regard.indexers import verify_index

        report = verify_index(arguments.index, progress=False)
        found |= {"verify s": round(report.seconds, 2), "bytes": report.bytes, "ok": report.ok}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
