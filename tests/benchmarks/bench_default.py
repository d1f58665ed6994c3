"""Which pipeline `regard search` should run by default: nDCG@10 of every candidate on DL19, SciFact, Vaswani and
hotpotqa-100.

Candidates share BM25 and dense retrieval (100 each) and a cross-encoder over the best 50; they differ in the fusion
before it and after it. A seeded half of each collection's queries chooses (best mean over the collections), the other
half is reported: each stage of the default and the former default (rrf, then the cross-encoder's order alone) against
the default, with paired intervals and randomisation tests. Logits are kept under --cache, a line a query, so an
interrupted run goes on: 25,000 pairs, about a quarter of an hour on two idle cores, most of it SciFact.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Figures, arguments, collection, collection_index
from regard.rag import Pipeline, Query, Ranking
from regard.rag.app.presets import CANDIDATES, CROSS_ENCODER_WEIGHT, RERANKED
from regard.rag.evaluation import BeirFolder, evaluate, read_beir, run_from_rankings
from regard.rag.evaluation.significance import bootstrap_interval, randomisation_test
from regard.rag.nouns import Batch
from regard.rag.progress import progress_bar
from regard.rerankers import CrossEncoder
from regard.retrievers import BM25, Dense, Fuse

COLLECTIONS = ("msmarco-dl19", "scifact", "vaswani", "hotpotqa-100")
WEIGHTS = (0.25, 0.5, 1, 2, 4)
FIRST = ("rrf", "zscore")
DEFAULT = f"z({CROSS_ENCODER_WEIGHT:g} ce, zscore)"
STAGES = ("bm25", "dense", "zscore", "zscore > ce")
FORMER = "rrf > ce"
Rankings = Batch[Ranking]
Scores = dict[str, dict[str, float]]
"""Candidate -> query -> nDCG@10."""


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--only", nargs="+", default=COLLECTIONS, choices=COLLECTIONS)
    parser.add_argument("--scored-only", action="store_true",
                        help="judge by the queries whose logits are under --cache, score no more")
    options = parser.parse_args()
    of = {name: scores(name, options.cache, options.scored_only) for name in options.only}
    chosen = {name: half(sorted(next(iter(made.values())))) for name, made in of.items()}
    figures = Figures()
    choose(of, chosen)
    for name, made in of.items():
        report(figures, name, made, [q for q in made[DEFAULT] if q not in chosen[name]])
    now, before = (np.mean([np.mean([v for q, v in of[n][c].items() if q not in chosen[n]]) for n in of])
                   for c in (DEFAULT, FORMER))
    figures.show(f"mean of {len(of)} collections, default less former default", float(now - before), bar=(">", 0),
                 digits=4)
    figures.exit()


def scores(name: str, cache: Path, scored_only: bool) -> Scores:
    """nDCG@10 of every candidate for every query of a collection (or those with logits under ``cache``)."""
    index, folder = collection_index(name, cache, encoder="minilm"), read_beir(collection(name))
    kept = cache / f"{name}.logits.jsonl"
    queries = [q for q in folder.queries if not scored_only or q.id in read(kept)]
    p = Pipeline(name)
    asked = p.input(Query)
    bm25, dense = p.add(BM25(index, k=CANDIDATES), asked), p.add(Dense(index, k=CANDIDATES), asked)
    p.output(bm25=bm25, dense=dense,
             **{method: p.add(Fuse(method, k=CANDIDATES), bm25, dense) for method in ("rrf", "zscore", "minmax")})
    with p:
        first = dict(p.run(queries))
    score(queries, [first[method] for method in FIRST], kept)
    logits = read(kept)
    for method in FIRST:
        pairs = zip(queries, first[method], strict=True)
        first[f"{method} > ce"] = Batch(reread(ranking.top(RERANKED), logits[query.id]) for query, ranking in pairs)
    made = {**first, **{label: fuse() for label, fuse in fusions(first).items()}}
    judged = replace(folder, queries=queries, qrels={q.id: folder.qrels[q.id] for q in queries if q.id in folder.qrels})
    return {label: ndcg(judged, rankings) for label, rankings in made.items()}


def fusions(first: dict[str, Rankings]) -> dict[str, Callable[[], Rankings]]:
    """The candidates that fuse the cross-encoder's ranking with others."""
    made: dict[str, Callable[[], Rankings]] = {}
    for method in FIRST:
        ce, fused, both = first[f"{method} > ce"], first[method], (first["bm25"], first["dense"])
        for w in WEIGHTS:
            made[f"z({w:g} ce, {method})"] = lambda w=w, ce=ce, fused=fused: Fuse("zscore", weights=[w, 1]).run(ce,
                                                                                                                fused)
        for w in (0.5, 1, 2):
            made[f"z({w:g} ce, bm25, dense) after {method}"] = (
                lambda w=w, ce=ce, both=both: Fuse("zscore", weights=[w, 1, 1]).run(ce, *both))
        for other in ("rrf", "minmax"):
            made[f"{other}(ce, {method})"] = lambda other=other, ce=ce, fused=fused: Fuse(other).run(ce, fused)
        made[f"rrf(ce, bm25, dense) after {method}"] = lambda ce=ce, both=both: Fuse("rrf").run(ce, *both)
    return made


def score(queries: list[Query], fused: list[Rankings], kept: Path) -> None:
    """Add a line to ``kept`` for each query that has none: the logits of all that is among the best 50 of any of
    ``fused``."""
    done = read(kept)
    todo = [i for i, query in enumerate(queries) if query.id not in done]
    p = Pipeline("logits")
    p.output(read=p.add(CrossEncoder(depth=len(fused) * RERANKED), p.input(Query), p.input(Ranking)))
    with p, kept.open("a") as file, progress_bar("cross-encoder", len(todo), "queries") as advance:
        for start in range(0, len(todo), 5):
            some = todo[start:start + 5]
            union = Fuse(k=len(fused) * RERANKED).run(*(Batch(rankings[i].top(RERANKED) for i in some)
                                                        for rankings in fused))
            for i, ranking in zip(some, p.run([queries[i] for i in some], union).read, strict=True):
                logits = dict(zip(map(str, ranking.rows.tolist()), ranking.scores.tolist(), strict=True))
                file.write(json.dumps({"q": queries[i].id, "logits": logits}) + "\n")
            file.flush()
            advance(len(some), "")


def read(kept: Path) -> dict[str, dict[int, float]]:
    """Query -> row -> logit."""
    lines = map(json.loads, kept.read_text().splitlines()) if kept.exists() else []
    return {line["q"]: {int(row): logit for row, logit in line["logits"].items()} for line in lines}


def reread(ranking: Ranking, logits: dict[int, float]) -> Ranking:
    return ranking.rescore([logits[row] for row in ranking.rows.tolist()], "logit").marked("ce")


def ndcg(folder: BeirFolder, rankings: Rankings) -> dict[str, float]:
    run = run_from_rankings(folder.queries, rankings)
    return dict(evaluate({q: run[q] for q in folder.qrels}, folder.qrels)["nDCG@10"].per_query)


def half(queries: list[str]) -> set[str]:
    """The queries that choose."""
    return set(np.random.default_rng(8).permutation(queries)[:len(queries) // 2].tolist())


def choose(of: dict[str, Scores], chosen: dict[str, set[str]]) -> None:
    """Print the candidates, best first by the mean over the collections of the choosing halves."""
    rows = []
    for label in next(iter(of.values())):
        means = [[float(np.mean([v for q, v in of[n][label].items() if (q in chosen[n]) == first])) for n in of]
                 for first in (True, False)]
        rows.append((float(np.mean(means[0])), label, *means))
    print(f"# nDCG@10 of {len(rows)} candidates, mean and {', '.join(of)}: the half that chooses | the half that is "
          f"reported")
    for mean, label, choosing, reported in sorted(rows, reverse=True):
        left, right = (" ".join(f"{v:.4f}" for v in values) for values in (choosing, reported))
        print(f"# {label:32s} {mean:.4f}  {left} | {np.mean(reported):.4f}  {right}")


def report(figures: Figures, name: str, made: Scores, queries: list[str]) -> None:
    """The default against each of its stages and the former default; the bar: no stage is better beyond its
    interval."""
    ours = [made[DEFAULT][q] for q in queries]
    figures.show(f"{name}, default, nDCG@10 ({len(queries)} queries)", float(np.mean(ours)), digits=4)
    for label in (*STAGES, FORMER):
        theirs = [made[label][q] for q in queries]
        low, high = bootstrap_interval(theirs, ours)
        test = randomisation_test(theirs, ours)
        print(f"# {name}, default less {label} ({np.mean(theirs):.4f}): {test.difference:+.4f} ({low:+.4f} to "
              f"{high:+.4f}), p {test.p:.3f}")
        if label in STAGES:
            figures.show(f"{name}, default less {label}, upper end of the interval", high, bar=(">=", 0), digits=4)


if __name__ == "__main__":
    main()
