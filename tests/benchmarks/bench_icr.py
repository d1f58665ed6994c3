"""Attention reranking (ICR) with SmolLM2: agreement with the published code's scores, and the time to rerank 20 DL19 passages.

--full also reranks the top 20 of all 43 DL19 queries, with the best first-stage passage last in the prompt (published), first, and
in shuffled order: part of the published form's score is the first stage's order, leaking through position.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from bench_quality import candidates, ndcg
from common import DATA, Figures, arguments, collection, collection_index, median
from regard.indexers import LanceStore
from regard.rag import Batch, Passage, PassageList, Query, Ranking
from regard.rag.evaluation import read_beir
from regard.rag.lm import LanguageModel
from regard.rerankers import AttentionReranker

AUTHORS_TURN = ("<|im_start|>user ", "<|im_end|>\n<|im_start|>assistant")
"""The published code writes its own turn, not the model's template."""
DEPTH = 20


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=5, help="DL19 queries to time (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="also nDCG@10 over all DL19 queries (minutes)")
    options = parser.parse_args()
    figures = Figures()
    model = LanguageModel.acquire("smollm2", device="cpu")  # one load for all stages
    figures.show("greatest difference to the published code's scores", agreement(), bar=("<=", 1e-4), digits=5)
    timing(figures, options.cache, options.queries)
    if options.full:
        quality(figures, options.cache)
    model.release()
    figures.exit()


def agreement() -> float:
    (case,) = json.loads((DATA / "icr-reference.json").read_text())["cases"]
    n = len(case["passages"])
    store = PassageList([Passage(str(i), str(i), text, 0, len(text)) for i, text in enumerate(case["passages"])])
    given = Ranking.ranked(np.arange(n), -np.arange(n), "bm25", store, stage="given")
    ranked = rerank(AttentionReranker(order="best-first", turn=AUTHORS_TURN, device="cpu"), [Query(case["query"])], [given])[0]
    scores = np.empty(n)
    scores[ranked.rows] = ranked.scores
    return float(np.abs(scores - case["scores"]).max())


def timing(figures: Figures, cache: Path, n: int) -> None:
    queries, rankings = dl19(cache)
    stage = AttentionReranker(depth=DEPTH, device="cpu")
    rerank(stage, queries[:1], rankings[:1])  # warms up
    seconds = []
    for query, ranking in list(zip(queries, rankings, strict=True))[:n]:
        start = time.perf_counter()
        rerank(stage, [query], [ranking])
        seconds.append(time.perf_counter() - start)
    figures.show(f"one rerank of {DEPTH} DL19 passages (median of {len(seconds)} queries)", median(seconds), "s", digits=2)


def quality(figures: Figures, cache: Path) -> None:
    folder = read_beir(collection("msmarco-dl19"))
    queries, rankings = dl19(cache)
    figures.show(f"DL19, BM25's top {DEPTH} as given, nDCG@10", ndcg(folder, Batch(rankings)), digits=4)
    for order in ("best-last", "best-first"):
        ranked = rerank(AttentionReranker(depth=DEPTH, order=order, device="cpu"), queries, rankings)
        figures.show(f"DL19, ICR over BM25's top {DEPTH}, {order}, nDCG@10", ndcg(folder, ranked), digits=4)
    rng = np.random.default_rng(0)
    shuffled = [Ranking.ranked(rng.permutation(r.rows), -np.arange(len(r)), "bm25", r.store, stage="shuffled") for r in rankings]
    figures.show(f"DL19, ICR over BM25's top {DEPTH}, shuffled, nDCG@10",
                 ndcg(folder, rerank(AttentionReranker(depth=DEPTH, device="cpu"), queries, shuffled)), digits=4)


def dl19(cache: Path) -> tuple[list[Query], list[Ranking]]:
    """DL19's queries and the first 20 candidates of each."""
    folder = read_beir(collection("msmarco-dl19"))
    store = LanceStore(collection_index("msmarco-dl19", cache))
    return folder.queries, [ranking.top(DEPTH) for ranking in candidates(folder, store)]


def rerank(stage: AttentionReranker, queries: list[Query], rankings: list[Ranking]) -> Batch[Ranking]:
    stage.open()
    try:
        return stage.run(Batch(queries), Batch(rankings))
    finally:
        stage.close()


if __name__ == "__main__":
    main()
