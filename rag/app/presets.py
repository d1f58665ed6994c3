"""The pipelines that the command line runs when no file is given, made through the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dag.pipeline import Pipeline
from ..dag.stores import open_store
from ..nouns import Query
from ..tables import table

CANDIDATES = 100
RERANKED = 50
CROSS_ENCODER_WEIGHT = 2.0
"""Of the cross-encoder's scores beside the first stage's, both as z-scores."""
READ = 2
"""Passages that the reader is shown: tried with 1, 2, 3 and 10, SmolLM2-135M answers from two best, from more it mixes
them up."""


def default_pipeline(
    index: str | Path | None, *, answer: bool = True, lm: str = "smollm2", cross_encoder: str = "minilm-cross-encoder",
    read: int = READ,
) -> Pipeline:
    """BM25 and dense retrieval, fused by z-scores; a cross-encoder reads the best 50, and its ranking is fused with the
    first stage's.

    A cross-encoder's order alone is better than the first stage's on collections like those it was trained on, and
    worse on others. Of 29 candidates (fusions and weights) the best three on half of the queries of DL19, SciFact,
    Vaswani and hotpotqa-100 were within .001 of each other; this is the simplest of them. On the other half it was, on
    each, as good as the best of its own stages within the interval, and .018 above the former default (RRF, then the
    cross-encoder's order) on their mean: ``tests/benchmarks/bench_default.py``.

    Outputs ``passages`` and, with ``answer``, ``answer``, read from the best ``read`` passages, best first. An index
    without dense vectors gets BM25 and the cross-encoder's order alone: fused with BM25's, it was worse there.
    ``index`` None leaves the index to be named when the pipeline's file is loaded, and takes one with dense vectors for
    granted.
    """
    pipeline = Pipeline("default")
    query = pipeline.input(Query)
    lexical = pipeline.add(_make("BM25", index=index, k=CANDIDATES), query)
    if index is None or getattr(open_store(f"lance:{index}"), "encoders", None):
        dense = pipeline.add(_make("Dense", index=index, k=CANDIDATES), query)
        first = pipeline.add(_make("Fuse", method="zscore", k=CANDIDATES), lexical, dense)
        reread = pipeline.add(_make("CrossEncoder", model=cross_encoder, depth=RERANKED), query, first)
        both = _make("Fuse", method="zscore", weights=[CROSS_ENCODER_WEIGHT, 1.0], k=CANDIDATES)
        ranked = pipeline.add(both, reread, first, name="ranked")
    else:
        ranked = pipeline.add(_make("CrossEncoder", model=cross_encoder, depth=RERANKED), query, lexical)
    pipeline.output(passages=ranked)
    if answer:
        reader = _make("Reader", lm=lm, depth=read, order="best-first", max_new_tokens=80, stop=["\n\n"])
        pipeline.output(answer=pipeline.add(reader, query, ranked))
    return pipeline


def _make(stage: str, **settings: Any) -> Any:
    return table("regard.stages")[stage](**settings)
