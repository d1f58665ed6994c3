"""Attention reranking with SmolLM2: agreement with the published code, and what block masks and early exit save in time
and memory.

In one process, alternating, on DL19's BM25 candidates: ICR as published (all layers, passages that see each other)
beside BlockICR with all heads, with the eight best heads (the model runs up to layer 18 of 30) and with two of them (up
to layer 8). Memory is each form's own process's peak above the loaded model, beside transformers' eager attention with
``output_attentions=True``, at a prompt where that fits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from bench_quality import candidates
from common import DATA, Figures, arguments, collection, collection_index, forget_peak, median, peak_memory
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Batch, Passage, PassageList, Query, Ranking
from regard.rag.dag.scope import Scope
from regard.rag.evaluation import read_beir
from regard.rag.lm import LanguageModel
from regard.rerankers import ICR, AttentionReranker, BlockICR, Policy
from regard.rerankers.attention.stage import OpenReranker

AUTHORS_TURN = ("<|im_start|>user ", "<|im_end|>\n<|im_start|>assistant")
"""The published code writes its own turn, not the model's template."""
POLICIES: dict[str, Policy] = {
    "ICR": ICR(), "BlockICR, all heads": BlockICR(heads=None), "BlockICR, 8 heads": BlockICR(heads="shipped"),
    "BlockICR, 2 heads": BlockICR(heads="7-7,8-0"),
}
EAGER = "output_attentions"
MEMORY_DEPTH = 20


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=3, help="DL19 queries to time (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=50, help="passages a query (default: %(default)s)")
    parser.add_argument("--peak", choices=[*POLICIES, EAGER], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak, options.cache))
        return
    figures = Figures()
    model = LanguageModel.acquire("smollm2", device="cpu")  # one load for all stages
    figures.show("greatest difference to the published code's scores", agreement(), bar=("<=", 1e-4), digits=5)
    prompts(figures, model, options.cache)
    timing(figures, options.cache, options.queries, options.depth)
    model.release()
    memory(figures, options.cache)
    figures.exit()




def agreement() -> float:
    (case,) = json.loads((DATA / "icr-reference.json").read_text())["cases"]
    n = len(case["passages"])
    store = PassageList([Passage(str(i), str(i), text, 0, len(text)) for i, text in enumerate(case["passages"])])
    given = Ranking.ranked(np.arange(n), -np.arange(n), "bm25", store)
    stage = AttentionReranker(policy=ICR(first="best-first"), turn=AUTHORS_TURN, device="cpu")
    ranked = rerank(stage, [Query(case["query"])], [given])[0]
    scores = np.empty(n)
    scores[ranked.rows] = ranked.scores
    return float(np.abs(scores - case["scores"]).max())


def prompts(figures: Figures, model: LanguageModel, cache: Path) -> None:
    """Texts to token ids with all spans, for 100 passages; the texts are in memory."""
    queries, rankings = dl19(cache, 100)
    for name, policy in (("ICR", ICR()), ("BlockICR", BlockICR())):
        stage = AttentionReranker(policy=policy, depth=100, device="cpu")
        texts = [Ranking.ranked(np.arange(len(r)), r.scores, "bm25", PassageList(r.passages())) for r in rankings[:10]]
        seconds = []
        for query, ranking in zip(queries, texts, strict=False):
            start = time.perf_counter()
            stage._lay(OpenReranker(model, None), query, ranking)(policy.order(len(ranking)))
            seconds.append(time.perf_counter() - start)
        figures.show(f"building the prompt of 100 passages, {name} (median of 10)", 1000 * median(seconds), "ms",
                     bar=("<", 30), digits=1)


def timing(figures: Figures, cache: Path, n: int, depth: int) -> None:
    queries, rankings = dl19(cache, depth)
    stages = {name: AttentionReranker(policy=policy, depth=depth, device="cpu") for name, policy in POLICIES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    with ExitStack() as opened:
        runs = {name: opened.enter_context(stage.opened()) for name, stage in stages.items()}
        for run in runs.values():
            run(queries[:1], [rankings[0].top(4)])  # warms up
        for query, ranking in list(zip(queries, rankings, strict=True))[1:n + 1]:
            for name, run in runs.items():
                start = time.perf_counter()
                run([query], [ranking])
                seconds[name].append(time.perf_counter() - start)
    published = np.array(seconds["ICR"])
    for name, taken in seconds.items():
        figures.show(f"one rerank of {depth} DL19 passages, {name} (median of {n} queries)", median(taken), "s",
                     digits=2)
    for name in list(POLICIES)[1:]:
        bar = (">=", 4.0) if name != "BlockICR, all heads" and depth == 50 else None  # all heads: no early exit
        ratio = median((published / np.array(seconds[name])).tolist())
        figures.show(f"published form's time over that of {name}", ratio, "x", bar=bar, digits=2)


def memory(figures: Figures, cache: Path) -> None:
    peaks = {}
    for name in (EAGER, *POLICIES):
        done = subprocess.run([sys.executable, __file__, "--peak", name, "--cache", str(cache)], capture_output=True,
                              text=True, check=True)
        peaks[name] = float(done.stdout.splitlines()[-1])
        figures.show(f"peak memory above the loaded model, {MEMORY_DEPTH} passages, {name}", peaks[name], "MB",
                     digits=0)
    for name in ("ICR", "BlockICR, 8 heads"):
        figures.show(f"peak of {name} over that of {EAGER}=True", peaks[name] / peaks[EAGER], bar=("<", 0.25), digits=3)


def peak(name: str, cache: Path) -> float:
    """MB above what the process takes with the model loaded and a short prompt run."""
    import torch
    from transformers import AutoModelForCausalLM

    queries, rankings = dl19(cache, MEMORY_DEPTH)
    stage = AttentionReranker(policy=POLICIES.get(name, ICR()), depth=MEMORY_DEPTH, device="cpu")
    held = stage.open(Scope())  # until the process ends
    stage.run(held, Batch(queries[:1]), Batch([rankings[0].top(2)]))
    prompt = stage._lay(held, queries[1], rankings[1])(stage.policy.order(MEMORY_DEPTH))
    if name == EAGER:
        from regard.rag.lm import gguf
        from regard.rag.models import resolve

        model = AutoModelForCausalLM.from_pretrained(gguf.converted(resolve("smollm2")), attn_implementation="eager",
                                                     dtype=torch.float32)
    before = forget_peak()
    if name == EAGER:
        with torch.inference_mode():
            model(torch.tensor([[*prompt.ids, *prompt.suffixes[0]]]), output_attentions=True, logits_to_keep=1)
    else:
        stage.run(held, Batch(queries[1:2]), Batch(rankings[1:2]))
    return peak_memory() - before


def dl19(cache: Path, depth: int) -> tuple[list[Query], list[Ranking]]:
    """DL19's queries and the first ``depth`` candidates of each."""
    folder = read_beir(collection("msmarco-dl19"))
    store = LanceStore(collection_index("msmarco-dl19", cache))
    return folder.queries, [ranking.top(depth) for ranking in candidates(folder, store)]


def rerank(stage: AttentionReranker, queries: list[Query], rankings: list[Ranking]) -> Batch[Ranking]:
    return stage.apply(queries, rankings)


if __name__ == "__main__":
    main()
