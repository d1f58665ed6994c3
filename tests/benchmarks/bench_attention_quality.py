"""What attention policies are worth: nDCG@10 over BM25's candidates on DL19, SciFact and hotpotqa-100, with paired
bootstrap intervals.

The head sets were measured on xquad-en, so on none of these. Policies with one prompt look at one prefill of a query's
passages, and the cached ones at that prefill as the index view would have stored it (float16, int8). Each query's
result is kept under --cache, so an interrupted run goes on where it stopped. All of it takes about an hour on two idle
cores; --limit takes the first queries only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_quality import candidates
from common import arguments, collection, collection_index
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views.attention.layout import Layout, tensor_of
from regard.rag import Query, Ranking
from regard.rag.evaluation import BeirFolder, evaluate, read_beir
from regard.rag.evaluation.significance import bootstrap_interval
from regard.rag.lm import LanguageModel
from regard.rag.lm.passages import Prompt
from regard.rag.lm.prefill import Prefill
from regard.rag.progress import progress_bar
from regard.rerankers import ICR, AttentionReranker, BlockICR, BlockRank, CoRe, LayerBand, Policy, QRHead
from regard.rerankers.attention.policies.scores import fused
from regard.rerankers.attention.stage import OpenReranker
from regard.retrievers import BM25

COLLECTIONS = {"msmarco-dl19": ("search", 20, 0), "scifact": ("search", 10, 40), "hotpotqa-100": ("qa", 20, 50)}
"""The instruction's wording, candidates a query, and how many queries by default (0: all)."""

ALONE, HEADS = BlockICR(fusion=None, heads=None), BlockICR(fusion=None, heads="shipped")
CAUSAL: dict[str, Policy] = {"ICR": ICR(), "QRHead": QRHead(), "CoRe": CoRe(first="best-last"),
                             "LayerBand": LayerBand()}
BLOCK: dict[str, Policy] = {"BlockICR": ALONE, "BlockICR heads": HEADS,
                            "BlockICR 2 heads": BlockICR(fusion=None, heads="7-7,8-0"),
                            "BlockRank": BlockRank()}
Scores = dict[str, list[float]]


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--only", choices=COLLECTIONS, nargs="*", help="these collections (default: all)")
    parser.add_argument("--limit", type=int, help="the first queries of each (default: 43, 40 and 50)")
    options = parser.parse_args()
    model = LanguageModel.acquire("smollm2", device="cpu")
    for name in options.only or COLLECTIONS:
        report(name, *measured(model, name, options.cache, options.limit))
    model.release()


def measured(model: LanguageModel, name: str, cache: Path, limit: int | None) -> tuple[Any, list[tuple[Query, Ranking,
                                                                                                       Scores]]]:
    task, depth, usual = COLLECTIONS[name]
    folder = read_beir(collection(name))
    queries = folder.queries[:(limit or usual or None)]
    rankings = first_stage(name, folder, queries, collection_index(name, cache), depth)
    kept = cache / "attention-quality" / f"{name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    with progress_bar(name, len(queries), "queries") as advance, kept.open("a") as file:
        for query, ranking in zip(queries, rankings, strict=True):
            if query.id not in known:
                known[query.id] = dict(scored(model, query, ranking, task))
                file.write(json.dumps([query.id, known[query.id]]) + "\n")
                file.flush()
            advance(1, "")
    return folder, [(query, ranking, known[query.id]) for query, ranking in zip(queries, rankings, strict=True)]


def first_stage(name: str, folder: BeirFolder, queries: list[Query], index: Path, depth: int) -> list[Ranking]:
    """BM25's candidates: over all of MS MARCO as they come with DL19, over the collection for the others."""
    if name == "msmarco-dl19":
        return [ranking.top(depth) for ranking in candidates(folder, LanceStore(index))][:len(queries)]
    return list(BM25(index, k=depth).apply(queries))


def scored(model: LanguageModel, query: Query, ranking: Ranking, task: Any) -> Iterator[tuple[str, list[float]]]:
    """Each policy's scores of one query's candidates, in the ranking's order."""
    n = len(ranking)
    orders = {"best last": np.arange(n), "best first": np.arange(n)[::-1],
              "shuffled": np.random.default_rng(int.from_bytes(query.id.encode()[-4:])).permutation(n)}
    for label, order in orders.items():
        lay = prefilled(model, query, ranking.take(order), ICR(), task)
        for name, policy in CAUSAL.items() if label != "best first" else [("ICR", ICR())]:
            own = policy.form(model.info.name, query.text) != ICR().form(model.info.name, query.text)
            scores = np.empty(n)
            scores[order] = policy.score(model, prefilled(model, query, ranking.take(order), policy, task) if own
                                         else lay, n).scores
            yield f"{name}, {label}", scores.tolist()
    lay = prefilled(model, query, ranking, ALONE, task)
    for name, policy in BLOCK.items():
        yield name, policy.score(model, prefilled(model, query, ranking, policy, task) if policy.query_first else lay,
                                 n).scores.tolist()
    for bits in (16, 8):
        for name in ("BlockICR", "BlockICR heads"):
            yield f"{name}, cache {bits} bit", BLOCK[name].score(model, stored(lay, bits), n).scores.tolist()


def prefilled(model: LanguageModel, query: Query, ranking: Ranking, policy: Policy, task: Any) -> Callable[[Any],
                                                                                                           Prompt]:
    """A way to lay the prompt that has run its passages already."""
    stage = AttentionReranker(policy=policy, task=task, depth=len(ranking), device="cpu")
    prompt = stage._lay(OpenReranker(model, None), query, ranking)(policy.order(len(ranking)))
    ready = replace(prompt, context=model.prefill(prompt.context, blocks=prompt.blocks, mask=prompt.mask,
                                                  positions=prompt.positions))
    return lambda _: ready


def stored(lay: Callable[[Any], Prompt], bits: int) -> Callable[[Any], Prompt]:
    """The same prompt with its passages' keys and values in ``bits`` bits, as the index view gives them back."""
    prompt = lay(None)
    exact = prompt.context
    assert isinstance(exact, Prefill)
    kv_heads, tokens, width = exact.keys[0].shape
    layout = Layout(exact.layers, kv_heads, width, bits)
    room = layout.room_for(layout.slots, tokens)
    for slot in range(layout.slots):
        room[slot] = tensor_of(exact, slot)
    for start, stop in exact.plan.blocks:
        layout.unpack(layout.packed(exact, [(start, stop)]), room[:, :, start:stop])
    ready = replace(prompt, context=Prefill(exact.plan, list(room[::2]), list(room[1::2]), complete=False))
    return lambda _: ready


def report(name: str, folder: Any, results: list[tuple[Query, Ranking, Scores]]) -> None:
    """One line a policy: nDCG@10, and its difference to BM25 with the 95 % interval; fused ones beside."""
    runs: dict[str, dict[str, dict[str, float]]] = {"BM25": {}}
    for query, ranking, scores in results:
        documents = [p.document_id for p in ranking.passages()]

        def add(run: str, values: Any, query: Query = query, documents: list[str] = documents) -> None:
            runs.setdefault(run, {})[query.id] = dict(zip(documents, map(float, values), strict=True))

        add("BM25", ranking.scores)
        for policy, values in scores.items():
            add(policy, values)
            if policy.startswith("BlockICR"):
                add(f"{policy}, fused", fused(np.array(values, dtype=np.float32), ranking.scores, 0.5))
    grades = {query.id: folder.qrels[query.id] for query, _, _ in results}
    per_query = {run: list(evaluate(values, grades, ["nDCG@10"])["nDCG@10"].per_query.values())
                 for run, values in runs.items()}
    print(f"\n## {name}: {len(results)} queries, {COLLECTIONS[name][1]} candidates\n\n| policy | nDCG@10 | less BM25, "
          f"95 % interval |")
    print("| --- | --- | --- |")
    for run, values in per_query.items():
        low, high = bootstrap_interval(per_query["BM25"], values)
        difference = np.mean(values) - np.mean(per_query["BM25"])
        print(f"| {run} | {np.mean(values):.4f} | {difference:+.4f} ({low:+.4f} to {high:+.4f}) |", flush=True)


if __name__ == "__main__":
    main()
