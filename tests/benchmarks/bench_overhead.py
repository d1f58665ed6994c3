"""What a pipeline adds: to a BM25 query over the stage alone and over bm25s called directly (same index object,
analysis and k), to five stages that do nothing, and to a batch of 64 over single queries, whose results are the
same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Figures, alternate, arguments, collection, collection_index, median
from regard.rag import Batch, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.scope import Scope
from regard.rag.evaluation import read_beir
from regard.rag.nouns import QueryVector
from regard.retrievers import BM25

DOCUMENTS, DIMENSION, STAGES, BATCH = 1000, 768, 5, 64


class Nothing(Stage):
    """Hands on what it was given."""

    def run(self, vectors: Batch[QueryVector], rankings: Batch[Ranking],
            documents: Batch[list[np.ndarray]]) -> Batch[Ranking]:
        return rankings


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=1200, help="how many, claims of SciFact (default: %(default)s)")
    parser.add_argument("-k", type=int, default=100, help="passages a query (default: %(default)s)")
    options = parser.parse_args()
    figures = Figures()
    index = collection_index("scifact", options.cache)
    claims = [query.text for query in read_beir(collection("scifact")).queries]
    one_query(figures, index, claims, options.queries // 2, options.k)
    of_nothing(figures)
    figures.exit()


def one_query(figures: Figures, index_folder: Path, claims: list[str], queries: int, k: int) -> None:
    stage = BM25(index_folder, k=k)
    p = Pipeline("bm25")
    p.output(passages=p.add(stage, p.input(Query)))
    with p, Scope() as scope:
        p.open()
        opened = scope.open(stage)
        view = opened.view  # the very index that the pipeline searches: one process loads a view once
        analyze, index = view._analyze, view.index

        def direct(text: str) -> object:
            known = index.vocab_dict
            return index.retrieve([[known[t] for t in analyze(text) if t in known]], k=k, show_progress=False)

        def alone(text: str) -> Ranking:
            return stage.run(opened, Batch((Query(text),)))[0]

        for text in claims[:50]:  # compiles, and fills the analysis's memory
            direct(text), alone(text), p.run(text)
        pairs = {}
        for name, less in (("bare", direct), ("stage", alone)):
            timed = [alternate(lambda t=text, f=less: f(t), lambda t=text: p.run(t), 4)
                     for text in _cycled(claims, queries)]
            pairs[name] = [min(a) * 1e3 for a, _ in timed], [min(b) * 1e3 for _, b in timed]
        asked = [Query(text, str(i)) for i, text in enumerate(claims[:BATCH])]
        together = p.run(asked).passages
        same = all(p.run(query).passages == ranking for query, ranking in zip(asked, together, strict=True))
    figures.show(f"BM25 query, bm25s directly (median of {queries})", median(pairs["bare"][0]), "ms")
    figures.show("BM25 query, the stage alone", median(pairs["stage"][0]), "ms")
    figures.show("BM25 query, through a pipeline", median(pairs["stage"][1]), "ms")
    figures.show("pipeline over bm25s (median of the paired differences)", _over(*pairs["bare"]), "ms", ("<", 1.0))
    figures.show("pipeline over the stage alone (median of the paired differences)", _over(*pairs["stage"]), "ms",
                 ("<", 0.1))
    figures.show(f"a batch of {BATCH} gives what {BATCH} single queries give", float(same), "", (">=", 1.0))


def of_nothing(figures: Figures) -> None:
    vectors = np.random.default_rng(0).standard_normal((DOCUMENTS + 1, DIMENSION)).astype(np.float32)
    store = PassageList([Passage(f"p{i}", f"d{i}", "text", 0, 4) for i in range(DOCUMENTS)])
    ranking = Ranking.ranked(range(DOCUMENTS), -np.arange(DOCUMENTS, dtype=np.float32), "cosine", store)
    inputs = (QueryVector(Query("a question"), vectors[-1]), ranking, Batch([list(vectors[:-1])]))
    p = Pipeline("nothing")
    query, hits, documents = p.input(QueryVector), p.input(Ranking), p.input(list[np.ndarray])
    for _ in range(STAGES):
        hits = p.add(Nothing(), query, hits, documents)
    p.output(hits=hits)
    with p:
        best = _least(lambda: p.run(*([value] if not isinstance(value, Batch) else value for value in inputs)))
    figures.show(f"{STAGES} stages that do nothing, {DOCUMENTS} documents with {DIMENSION}-d vectors", best * 1e3, "ms",
                 ("<", 1.0))


def _cycled(claims: list[str], queries: int) -> list[str]:
    return [claims[i % len(claims)] for i in range(queries)]


def _least(work: Callable[[], object], times: int = 500) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _over(bare: list[float], whole: list[float]) -> float:
    return median([b - a for a, b in zip(bare, whole, strict=True)])


if __name__ == "__main__":
    main()
