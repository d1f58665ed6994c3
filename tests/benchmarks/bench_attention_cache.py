"""Reranking from cached keys and values against the published form, SmolLM2, BM25's first 100 passages of DL19 queries.

Each query is timed in turn by the published form (ICR), and by BlockICR from the cache with 16 and with 8 bits;
BlockICR without a cache is what the scores from the cache are compared with. The first run indexes the passages, twice:
half a minute a query on two idle cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import numpy as np
from common import Figures, arguments, collection, forget_peak, median, peak_memory
from regard.indexers import build_index
from regard.indexers.corpus import read_corpus
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Query, Ranking
from regard.rag.dag.stores import open_prefills
from regard.rag.evaluation import BeirFolder, read_beir, read_run
from regard.rag.lm import LanguageModel
from regard.rag.lm.heads import deepest
from regard.rag.lm.passages import Format
from regard.rag.markup import size
from regard.rerankers import ICR, AttentionReranker, BlockICR
from scipy.stats import kendalltau

LM = "smollm2"
DEPTH = 100
BITS = (16, 8)
POLICY = BlockICR(fusion=None)
"""With the heads that come with the model: it runs up to layer 18 of 30."""

Times = dict[str, list[float]]


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=3, help="DL19 queries (default: %(default)s)")
    parser.add_argument("--no-published", action="store_true",
                        help="leave the published form out: it takes most of the time")
    options = parser.parse_args()
    figures = Figures()
    folder = read_beir(collection("msmarco-dl19"))
    queries = folder.queries[:options.queries]
    model = LanguageModel.acquire(LM, device="cpu")  # one load for all stages
    rankings = {bits: candidates(folder, queries, options.cache, bits) for bits in BITS}
    stages = {"fresh": AttentionReranker(LM, POLICY, depth=DEPTH, device="cpu")}
    if not options.no_published:
        stages["published"] = AttentionReranker(LM, ICR(), depth=DEPTH, device="cpu")
    stages |= {f"{bits} bits": AttentionReranker(LM, POLICY, depth=DEPTH, device="cpu", cache=index_of(rankings[bits]))
               for bits in BITS}
    times, results = timed(stages, queries, rankings)
    report_times(figures, times)
    for bits in BITS:
        footprint(figures, bits, rankings[bits])
        parts(figures, model, bits, rankings[bits], queries)
        memory(figures, bits, stages[f"{bits} bits"], queries[-1], rankings[bits][-1])
        agreement(figures, bits, results["fresh"], results[f"{bits} bits"])
    model.release()
    figures.exit()


def candidates(folder: BeirFolder, queries: Sequence[Query], cache: Path, bits: int) -> list[Ranking]:
    """BM25's candidates of each query, over an index of them alone with their keys and values; made at the first
    call."""
    run = read_run(folder.corpus.parent / "bm25.run")
    best = {q.id: list(run[q.id].items())[:DEPTH] for q in queries}
    wanted = {document for hits in best.values() for document, _ in hits}
    documents = (d for d in read_corpus(folder.corpus.parent, format="beir", on_skip=print) if d.id in wanted)
    index = cache / f"dl19-attention-{len(queries)}-{bits}"
    start = perf_counter()
    report = build_index(documents, index, encoder=None, chunker="whole", views=[f"attention:{LM},bits={bits}"])
    print(f"# {index}: {report.total_passages} passages, {report.added} of them new, {perf_counter() - start:.0f} s",
          flush=True)
    store = LanceStore(index)
    row_of = dict(zip(store.document_ids(store.rows), store.rows.tolist(), strict=True))
    return [Ranking.ranked([row_of[d] for d, _ in best[q.id]], [s for _, s in best[q.id]], "bm25", store)
            for q in queries]


def index_of(rankings: Sequence[Ranking]) -> str:
    return rankings[0].store.uri.removeprefix("lance:")


def timed(
    stages: dict[str, AttentionReranker], queries: Sequence[Query], rankings: dict[int, list[Ranking]],
) -> tuple[Times, dict[str, list[Ranking]]]:
    """Seconds and results of each stage for each query, the stages in turns; from the cache the first query is run
    before, to warm up."""
    times: Times = {name: [] for name in stages}
    results: dict[str, list[Ranking]] = {name: [] for name in stages}
    with ExitStack() as opened:
        runs = {name: opened.enter_context(stage.opened()) for name, stage in stages.items()}
        for name, run in runs.items():
            if "bits" in name:
                run([queries[0]], [given(name, rankings)[0]])
        for i, query in enumerate(queries):
            for name, run in list(runs.items())[::-1 if i % 2 else 1]:
                start = perf_counter()
                results[name] += run([query], [given(name, rankings)[i]])
                times[name].append(perf_counter() - start)
    return times, results


def given(name: str, rankings: dict[int, list[Ranking]]) -> list[Ranking]:
    return rankings[int(name.split()[0])] if "bits" in name else rankings[BITS[0]]


def report_times(figures: Figures, times: Times) -> None:
    for name, seconds in times.items():
        figures.show(f"one rerank of {DEPTH} passages, {name} (median of {len(seconds)} queries)", median(seconds), "s")
    for bits in BITS:
        cached = times[f"{bits} bits"]
        if "published" in times:
            ratios = [a / b for a, b in zip(times["published"], cached, strict=True)]
            figures.show(f"published form's time over that from the cache, {bits} bits", median(ratios), bar=(">=", 30),
                         digits=1)
        figures.show(f"BlockICR's time without a cache over that from the cache, {bits} bits",
                     median([a / b for a, b in zip(times["fresh"], cached, strict=True)]), digits=1)


def footprint(figures: Figures, bits: int, rankings: Sequence[Ranking]) -> None:
    data = sum(file.stat().st_size for file in Path(index_of(rankings)).glob("views/attention-*/*/shards/*/data.bin"))
    passages = len({row for ranking in rankings for row in ranking.rows.tolist()})
    figures.show(f"footprint of a passage, {bits} bits ({size(data)} for {passages})", data / passages / 1e6, "MB",
                 digits=2)


def parts(figures: Figures, lm: LanguageModel, bits: int, rankings: Sequence[Ranking],
          queries: Sequence[Query]) -> None:
    """Where the time from the cache goes."""
    heads = POLICY.heads_in(LM)
    view = open_prefills(index_of(rankings), LM, Format(), deepest(heads, lm.info.layers))
    gather, forward = [], []
    for query, ranking in list(zip(queries, rankings, strict=True)) * 3:
        start = perf_counter()
        prefill, _ = view.prefill(ranking, "cpu")
        gathered = perf_counter()
        lm.attention_mass(prefill, [Format().suffix(lm, f"Query: {text}") for text in (query.text, "N/A")],
                          heads=heads, weights=[1, -1])
        gather.append(gathered - start)
        forward.append(perf_counter() - gathered)
    read = f"{len(prefill.plan.ids)} tokens, {size(prefill.nbytes)}"
    figures.show(f"of it reading keys and values, {bits} bits ({read})", 1000 * median(gather), "ms", digits=0)
    figures.show(f"of it the suffixes' forward pass, {bits} bits", 1000 * median(forward), "ms", digits=0)


def memory(figures: Figures, bits: int, stage: AttentionReranker, query: Query, ranking: Ranking) -> None:
    """With what it reads of the view: those pages are counted, too."""
    with stage.opened() as run:
        before = forget_peak()
        run([query], [ranking])
        taken = peak_memory() - before
    figures.show(f"peak memory above the loaded model, {DEPTH} passages from the cache, {bits} bits", taken, "MB",
                 digits=0)


def agreement(figures: Figures, bits: int, fresh: Sequence[Ranking], cached: Sequence[Ranking]) -> None:
    """Of the rankings from the cache with those of a fresh prefill; the two indexes number their passages alike by
    document."""
    taus, overlaps = [], []
    for a, b in zip(fresh, cached, strict=True):
        exact = dict(zip(a.store.document_ids(a.rows), a.scores.tolist(), strict=True))
        names = b.store.document_ids(b.rows)
        taus.append(kendalltau([exact[name] for name in names], b.scores).statistic)
        overlaps.append(len(set(names[:10]) & set(list(exact)[:10])) / 10)
    figures.show(f"Kendall tau of scores with {bits} bits and of fresh ones", float(np.mean(taus)), digits=4)
    figures.show(f"overlap of the best ten with {bits} bits and of the fresh ones", float(np.mean(overlaps)), digits=3)


if __name__ == "__main__":
    main()
