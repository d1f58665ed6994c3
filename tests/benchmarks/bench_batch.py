"""One batch of 64 queries against 64 single runs of the same pipeline: BM25 + dense, fused, on SciFact; caching off.

The rankings must be the same ones: rows identical, scores equal but for float rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import Figures, alternate, arguments, collection, collection_index, median
from regard.rag import Pipeline, Query, Ranking
from regard.rag.evaluation import read_beir
from regard.retrievers import BM25, Dense, Fuse


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=64, help="claims in the batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    index = collection_index("scifact", options.cache, encoder="minilm")
    queries = read_beir(collection("scifact")).queries[:options.queries]
    p = Pipeline("batch")
    query = p.input(Query)
    lexical, dense = p.add(BM25(index), query), p.add(Dense(index), query)
    p.output(bm25=lexical, dense=dense, fused=p.add(Fuse(), lexical, dense))
    figures = Figures()
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
    figures.exit()


def compare(some: Sequence[Ranking], others: Sequence[Ranking]) -> tuple[float, float]:
    """The share of rankings with the same rows in the same order, and the greatest difference of scores among those."""
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if np.array_equal(a.rows, b.rows)]
    return len(pairs) / len(some), max((float(np.abs(a.scores - b.scores).max(initial=0)) for a, b in pairs), default=0.0)


if __name__ == "__main__":
    main()
