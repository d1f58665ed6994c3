"""One batch of 64 queries against 64 single runs of the same pipeline: BM25 + dense, fused; caching off.

On SciFact with its claims (20 tokens), where the rankings must be the same ones: rows identical, scores equal but for
float rounding. And, as a figure of its own, over a larger index: SciFact's passages and random unit vectors under
minilm's fingerprint, so that queries are encoded for real and a search reads as many bytes as over a real collection of
that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Figures, alternate, arguments, collection, collection_index, median
from regard.indexers import build_index
from regard.indexers.corpus import read_corpus
from regard.rag import Document, Pipeline, Query, Ranking
from regard.rag.dag.scope import Scope
from regard.rag.evaluation import read_beir
from regard.rag.models.encoding import Encoder, OpenEncoder
from regard.rag.parts import plain
from regard.retrievers import BM25, Dense, Fuse


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=64, help="claims in the batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=200_000,
                        help="in the larger index, 0 for none (default: %(default)s)")
    options = parser.parse_args()
    index = collection_index("scifact", options.cache, encoder="minilm")
    queries = read_beir(collection("scifact")).queries[:options.queries]
    figures, p = Figures(), pipeline(index)
    with p:
        together = p.run(queries)
        alone = [p.run(one) for one in queries]
        for name in together:
            same_rows, difference = compare(together[name], [result[name] for result in alone])
            figures.show(f"{name}: share of queries with identical rows", same_rows, bar=(">=", 1.0), digits=4)
            figures.show(f"{name}: greatest score difference", difference)
        batch, single = alternate(lambda: p.run(queries), lambda: [p.run(one) for one in queries], options.rounds)
        stages = {"single runs": [result.trace for result in alone], "batch": [p.run(queries).trace]}
    figures.show(f"batch of {len(queries)}", median(batch) * 1e3, "ms", digits=1)
    figures.show(f"{len(queries)} single runs", median(single) * 1e3, "ms", digits=1)
    for name, traces in stages.items():
        for entry in traces[0].stages:
            spent = sum(trace[entry.stage].seconds for trace in traces)
            figures.show(f"  of which {entry.stage}, {name}", spent * 1e3, "ms", digits=1)
    figures.show("single runs' time over the batch's", median(single) / median(batch), "x", (">=", 5.0), digits=2)
    if options.passages:
        with pipeline(larger_index(options.cache, options.passages)) as p:
            batch, single = alternate(lambda: p.run(queries), lambda: [p.run(one) for one in queries], 3)
        figures.show(f"the same over {options.passages:,} passages", median(single) / median(batch), "x", digits=2)
    figures.exit()


def pipeline(index: Path) -> Pipeline:
    """BM25 and dense retrieval, fused."""
    p = Pipeline("batch")
    query = p.input(Query)
    lexical, dense = p.add(BM25(index), query), p.add(Dense(index), query)
    return p.output(bm25=lexical, dense=dense, fused=p.add(Fuse(), lexical, dense))


class RandomPassages(Encoder):
    """minilm as far as its name and description go; passages get random unit vectors."""

    like: Encoder = "minilm"

    @property
    def name(self) -> str:
        return self.like.name

    @property
    def dimension(self) -> int:
        return self.like.dimension

    def description(self) -> dict[str, Any]:
        return {**self.like.description(), "part": plain(self.like)}  # searched with minilm

    def open(self, scope: Scope, /) -> OpenEncoder:
        return OpenRandom(self.like.dimension)


class OpenRandom(OpenEncoder):
    name = "minilm"

    def __init__(self, dimension: int) -> None:
        self.dimension, self._random = dimension, np.random.default_rng(0)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        vectors = self._random.standard_normal((len(texts), self.dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def larger_index(cache: Path, passages: int) -> Path:
    """SciFact's passages again and again, each time under other ids and with other words at the end."""
    path = Path(cache) / f"random-{passages}"

    def documents() -> Iterator[Document]:
        known = list(read_corpus(collection("scifact"), on_skip=print))
        for i in range(passages):
            one = known[i % len(known)]
            yield Document(f"{one.id}-{i}", f"{one.text} copy{i // len(known)}", one.title)

    if not (path / "views").exists():
        build_index(documents(), path, encoder=RandomPassages(), chunker="whole")
    return path


def compare(some: Sequence[Ranking], others: Sequence[Ranking]) -> tuple[float, float]:
    """The share of rankings with the same rows in the same order, and the greatest difference of scores among those."""
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if np.array_equal(a.rows, b.rows)]
    return len(pairs) / len(some), max((float(np.abs(a.scores - b.scores).max(initial=0)) for a, b in pairs),
                                       default=0.0)


if __name__ == "__main__":
    main()
