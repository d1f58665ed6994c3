"""Ranking quality (nDCG@10) on real collections: SciFact and Vaswani in full, MS MARCO DL19's BM25 candidates reranked.

One passage a document. Indexes are kept under --cache: the first run encodes SciFact (4 minutes on two idle
cores) and reranks its 15,000 pairs (about 12 minutes of processor time); a rerun does neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import Figures, arguments, collection, collection_index
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Pipeline, Query
from regard.rag.app.presets import CROSS_ENCODER_WEIGHT, RERANKED
from regard.rag.evaluation import BeirFolder, evaluate, read_beir, read_run, run_from_rankings
from regard.rag.nouns import Batch, Ranking
from regard.rag.progress import progress_bar
from regard.rerankers import CrossEncoder
from regard.retrievers import BM25, Dense, Fuse

DEPTH = 100
STEP = 10
"""Queries that are reranked as one batch."""


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--only", choices=["scifact", "vaswani", "dl19"], nargs="*",
                        help="these collections (default: all)")
    options = parser.parse_args()
    figures = Figures()
    for name, measure in {"vaswani": vaswani, "dl19": dl19, "scifact": scifact}.items():
        if not options.only or name in options.only:
            measure(figures, options.cache)
    figures.exit()


def scifact(figures: Figures, cache: Path) -> None:
    index, folder = collection_index("scifact", cache, encoder="minilm"), read_beir(collection("scifact"))
    p = Pipeline("scifact")
    query = p.input(Query)
    first_stages = p.add(BM25(index, k=DEPTH), query), p.add(Dense(index, k=DEPTH), query)
    fused = {method: p.add(Fuse(method, k=DEPTH), *first_stages) for method in ("rrf", "minmax", "zscore")}
    p.output(bm25=first_stages[0], dense=first_stages[1], **fused)
    with p:
        result = p.run(folder.queries)
    scores = {name: ndcg(folder, result[name]) for name in result}
    figures.show("SciFact, BM25, nDCG@10", scores["bm25"], bar=(">=", 0.670), digits=4)
    figures.show("SciFact, dense minilm, nDCG@10", scores["dense"], bar=(">=", 0.640), digits=4)
    figures.show("SciFact, fused (rrf), nDCG@10", scores["rrf"], digits=4)
    figures.show("SciFact, fused (minmax), nDCG@10", scores["minmax"], digits=4)
    figures.show("SciFact, fused (zscore, the default's first stage), nDCG@10", scores["zscore"], digits=4)
    gain = scores["zscore"] - max(scores["bm25"], scores["dense"])
    figures.show("SciFact, fused (zscore) less the better of BM25 and dense", gain, bar=(">", 0.0), digits=4)
    reranked = rerank(folder.queries, result.zscore, RERANKED, cache)
    figures.show("SciFact, fused (zscore), then the cross-encoder's order of the top 50, nDCG@10",
                 ndcg(folder, reranked), digits=4)
    ranked = Fuse("zscore", weights=[CROSS_ENCODER_WEIGHT, 1], k=DEPTH).run(reranked, result.zscore)
    figures.show("SciFact, both fused (the default), nDCG@10", ndcg(folder, ranked), digits=4)


def vaswani(figures: Figures, cache: Path) -> None:
    index, folder = collection_index("vaswani", cache), read_beir(collection("vaswani"))
    p = Pipeline("vaswani")
    p.output(bm25=p.add(BM25(index, k=DEPTH), p.input(Query)))
    with p:
        figures.show("Vaswani, BM25, nDCG@10", ndcg(folder, p.run(folder.queries).bm25), bar=(">=", 0.435), digits=4)


def dl19(figures: Figures, cache: Path) -> None:
    folder = read_beir(collection("msmarco-dl19"))
    rankings = candidates(folder, LanceStore(collection_index("msmarco-dl19", cache)))
    reranked = rerank(folder.queries, rankings, DEPTH, cache)
    figures.show("DL19, BM25's candidates as given, nDCG@10", ndcg(folder, rankings), digits=4)
    figures.show("DL19, cross-encoder over BM25's top 100, nDCG@10", ndcg(folder, reranked), bar=(">=", 0.715),
                 digits=4)


def rerank(queries: list[Query], rankings: Sequence[Ranking], depth: int, cache: Path) -> Batch[Ranking]:
    """The cross-encoder over each ranking's first ``depth``; an interrupted run goes on from what is under
    ``cache``."""
    p = Pipeline("rerank", cache=cache / "stages")
    p.output(reranked=p.add(CrossEncoder(depth=depth), p.input(Query), p.input(Ranking)))
    found: list[Ranking] = []
    with p, progress_bar("cross-encoder", len(queries), "queries") as advance:
        for first in range(0, len(queries), STEP):
            some = slice(first, first + STEP)
            found += p.run(queries[some], list(rankings[some])).reranked
            advance(len(queries[some]), "")
    return Batch(found)


def candidates(folder: BeirFolder, store: LanceStore) -> Batch[Ranking]:
    """The run file's candidates of each query, as rankings over ``store``."""
    run = read_run(folder.corpus.parent / "bm25.run")
    row_of = {document: row for batch in store.scan(["row", "document_id"])
              for row, document in zip(batch.column("row").to_pylist(), batch.column("document_id").to_pylist(),
                                       strict=True)}
    return Batch(Ranking.ranked([row_of[d] for d in run[q.id]], np.array(list(run[q.id].values())), "bm25", store)
                 for q in folder.queries)


def ndcg(folder: BeirFolder, rankings: Batch[Ranking]) -> float:
    return evaluate(run_from_rankings(folder.queries, rankings), folder.qrels)["nDCG@10"].mean


if __name__ == "__main__":
    main()
