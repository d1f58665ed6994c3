"""What it costs that commits reach the disk (fsync, digests): an indexing job as it is by default against one with
REGARD_FSYNC=0.

Both run in this process, in turn; figures are medians of pairs. The worst case is an encoder that costs next to
nothing; the real one is minilm. Only a quiet disk gives a figure that means something: others' writes are waited for,
too.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from common import Figures, arguments, collection
from regard.indexers import build_index
from regard.indexers.corpus import read_corpus
from regard.rag.dag.scope import Scope
from regard.rag.models.encoding import Encoder, OpenEncoder, Vectors
from regard.rag.parts import part

BAR = (">=", 0.97)


class OpenCheap(OpenEncoder):
    """Vectors of 384 random numbers that are made once."""

    name, dimension = "cheap", 384
    _made = np.random.default_rng(0).standard_normal((4096, 384)).astype(np.float32)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._made[:len(texts)]


class Cheap(Encoder):
    name, dimension = "cheap", 384

    def description(self) -> dict[str, Any]:
        return {"kind": "cheap", "model": self.name, "dimension": self.dimension, "normalize": False}

    def open(self, scope: Scope, /) -> OpenEncoder:
        return OpenCheap()


def seconds(documents: Sequence[Any], one: Encoder, fsync: str) -> float:
    folder = Path(tempfile.mkdtemp(prefix="regard-durability-"))
    os.environ["REGARD_FSYNC"] = fsync
    start = time.perf_counter()
    build_index(documents, folder / "index", encoder=one, chunker="whole", views=[], progress=False)
    taken = time.perf_counter() - start
    shutil.rmtree(folder)
    return taken


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default: %(default)s)")
    options = parser.parse_args()
    figures = Figures()
    every = list(islice(read_corpus(collection("scifact"), format="beir", on_skip=print), 5000))
    held = part(Encoder, "minilm")
    for name, one, documents in (("a free encoder, 5,000 abstracts", Cheap(), every),
                                 ("minilm, 500 abstracts", held, every[:500])):
        seconds(documents, one, "1")
        pairs = [(seconds(documents, one, "0"), seconds(documents, one, "1")) for _ in range(options.rounds)]
        figures.show(f"{name}: throughput with fsync / without", statistics.median(off / on for off, on in pairs),
                     bar=BAR)
        figures.show(f"{name}: with fsync", statistics.median(on for _, on in pairs), "s")
    figures.exit()


if __name__ == "__main__":
    main()
