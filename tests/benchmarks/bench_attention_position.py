"""Where the suffix of the order-free prompt stands: nDCG@10 of each rule against "after the longest passage", with
paired intervals.

Under the block mask at shared positions every passage begins where the prefix ends. The rules:
- ``longest``: the suffix follows the longest passage, so that one long candidate moves it away from all others.
- ``fixed D``: the suffix stands D tokens after the prefix, whatever the candidates are.
- ``aligned D``: as fixed, and each passage's keys are rotated so that it ends there (``kernels.rope_shift``). Rotation
  gives the keys of the same states at other positions; a passage run there would have others, since it would see the
  prefix from farther away.
- ``aligned D, fresh`` (with --fresh): passages run at those positions.

Candidates are BM25's, queries are drawn by a seed. Each query's scores are kept under --cache, so an interrupted run
goes on where it stopped, and --seconds ends it early. All of it takes about half an hour on two idle cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_attention_quality import first_stage
from common import arguments, collection, collection_index
from regard.kernels.rope_shift import rope_shift
from regard.rag import Query, Ranking
from regard.rag.evaluation import evaluate, read_beir
from regard.rag.evaluation.significance import bootstrap_interval, randomisation_test
from regard.rag.lm import LanguageModel
from regard.rag.lm.engine import PREFILL_CHUNK
from regard.rag.lm.heads import deepest
from regard.rag.lm.prefill import Prefill, PrefillPlan
from regard.rerankers import AttentionReranker, BlockICR
from regard.rerankers.attention.policies.scores import fused, summed
from regard.rerankers.attention.stage import OpenReranker

COLLECTIONS = {"msmarco-dl19": ("search", 20, 43), "hotpotqa-100": ("qa", 10, 60), "scifact": ("search", 10, 60)}
"""The instruction's wording, candidates a query, and how many queries."""

POLICY = BlockICR(fusion=None, heads="shipped")
DISTANCES = (900, 2048)
NEAR = DISTANCES[0]
"""Tokens; longer than any passage of 300 words in these collections (719)."""


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--only", choices=COLLECTIONS, nargs="*", help="these collections (default: all)")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="stop measuring after so long, and report what there is")
    parser.add_argument("--fresh", action="store_true", help="run the passages at aligned positions, too")
    options = parser.parse_args()
    names = options.only or list(COLLECTIONS)
    model = LanguageModel.acquire("smollm2", device="cpu")
    for name in names:
        measure(model, name, options.cache, time.monotonic() + options.seconds / len(names), options.fresh)
    model.release()


def measure(model: LanguageModel, name: str, cache: Path, until: float, fresh: bool) -> None:
    task, depth, count = COLLECTIONS[name]
    folder = read_beir(collection(name))
    drawn = np.random.default_rng(8).permutation(len(folder.queries))[:count]
    rankings = first_stage(name, folder, folder.queries, collection_index(name, cache), depth)
    kept = cache / "attention-position" / f"{name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    results = []
    with kept.open("a") as file:
        for i in drawn.tolist():
            query, ranking = folder.queries[i], rankings[i]
            if query.id not in known:
                if time.monotonic() > until:
                    continue
                known[query.id] = dict(scored(model, query, ranking, task, fresh))
                file.write(json.dumps([query.id, known[query.id]]) + "\n")
                file.flush()
            results.append((query, ranking, known[query.id]))
    report(name, folder, results)


def scored(model: LanguageModel, query: Query, ranking: Ranking, task: Any,
           fresh: bool) -> Iterator[tuple[str, list[float]]]:
    """Each rule's scores of one query's candidates, in the ranking's order."""
    stage = AttentionReranker(policy=POLICY, task=task, depth=len(ranking), device="cpu")
    prompt = stage._lay(OpenReranker(model, None), query, ranking)(None)
    heads = POLICY.heads_in("smollm2")
    last = deepest(heads, model.info.layers)
    context = model.prefill(prompt.context, blocks=prompt.blocks, mask="block", positions="shared", last=last)
    start = context.plan.prefix
    inverse_frequencies = model._model.base_model.rotary_emb.inv_freq

    def by(rule: str, context: Prefill, after: int | None) -> tuple[str, list[float]]:
        mass = model.attention_mass(context, prompt.suffixes, heads=heads, weights=[1.0, -1.0], after=after)
        return rule, summed(mass, prompt, POLICY.deviations).tolist()

    yield by("longest", context, context.plan.after)
    for distance in DISTANCES:
        yield by(f"fixed {distance}", context, start + distance)
    ends = aligned(context.plan, start + NEAR)
    yield by(f"aligned {NEAR}", rotated(context, ends, inverse_frequencies), start + NEAR)
    if fresh:
        there = Prefill(ends, complete=False)
        model._prefill(there, PREFILL_CHUNK, last)
        yield by(f"aligned {NEAR}, fresh", there, start + NEAR)


def aligned(plan: PrefillPlan, end: int) -> PrefillPlan:
    """``plan`` with every block ending before position ``end``."""
    positions = [*range(plan.prefix), *(end - stop + t for start, stop in plan.blocks for t in range(start, stop))]
    return replace(plan, positions=tuple(positions), after=end)


def rotated(context: Prefill, plan: PrefillPlan, inverse_frequencies: torch.Tensor) -> Prefill:
    """``context`` with its keys where ``plan`` has them."""
    everything = torch.arange(len(plan.ids))
    shift = torch.tensor(plan.positions) - torch.tensor(context.plan.positions)
    return replace(context, plan=plan,
                   keys=[rope_shift(key, everything, shift, inverse_frequencies) for key in context.keys])


def report(name: str, folder: Any, results: Sequence[tuple[Query, Ranking, dict[str, list[float]]]]) -> None:
    """One line a rule: nDCG@10 alone and fused with BM25, and the difference of each to ``longest`` with its 95 %
    interval."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for query, ranking, scores in results:
        documents = [p.document_id for p in ranking.passages()]
        for rule, values in ({"BM25": ranking.scores.tolist()} | scores).items():
            runs.setdefault(rule, {})[query.id] = dict(zip(documents, map(float, values), strict=True))
            both = fused(np.array(values, dtype=np.float32), ranking.scores, 0.5)
            runs.setdefault(f"{rule}, fused", {})[query.id] = dict(zip(documents, map(float, both), strict=True))
    grades = {query.id: folder.qrels[query.id] for query, _, _ in results}
    values = {run: list(evaluate(found, grades, ["nDCG@10"])["nDCG@10"].per_query.values())
              for run, found in runs.items()}
    print(f"\n## {name}: {len(results)} queries, {COLLECTIONS[name][1]} candidates; BM25 "
          f"{np.mean(values['BM25']):.4f}\n")
    print("| the suffix stands | alone | less longest, 95 % | p | fused | less longest, 95 % | p |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rule in (rule for rule in runs if not rule.endswith(", fused") and rule != "BM25"):
        cells = [rule]
        for run, base in ((rule, "longest"), (f"{rule}, fused", "longest, fused")):
            low, high = bootstrap_interval(values[base], values[run])
            test = randomisation_test(values[base], values[run])
            cells += [f"{np.mean(values[run]):.4f}", f"{test.difference:+.4f} ({low:+.4f} to {high:+.4f})",
                      f"{test.p:.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
