"""The pipelines that the command line runs when no file is given, made through the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .documents import Query, Ranking
from .pipeline import Pipeline, Wire
from .registry import open_store, stage_class

CANDIDATES = 100
RERANKED = 50
CROSS_ENCODER_WEIGHT = 2
"""Of the cross-encoder's scores beside the first stage's, both as z-scores."""
READ = 2
"""Passages that the reader is shown: tried with 1, 2, 3 and 10, SmolLM2-135M answers from two best, from more it mixes them up."""


def default_pipeline(
    index: str | Path | None, *, answer: bool = True, lm: str = "smollm2", cross_encoder: str = "minilm-cross-encoder", read: int = READ,
) -> Pipeline:
    """BM25 and dense retrieval, fused by reciprocal rank, reranked by a cross-encoder, read by a language model.

    Outputs ``passages`` and, with ``answer``, ``answer``, read from the best ``read`` passages, best first. An index without dense vectors
    gets BM25 alone. ``index`` None leaves the index to be named when the pipeline's file is loaded.
    """
    pipeline = Pipeline("default")
    query = pipeline.input(Query)
    reranked = pipeline.add(_make("CrossEncoder", model=cross_encoder, depth=RERANKED), query, _first_stage(pipeline, query, index))
    pipeline.output(passages=reranked)
    if answer:
        reader = _make("Reader", lm=lm, depth=read, order="best-first", max_new_tokens=80, stop=["\n\n"])
        pipeline.output(answer=pipeline.add(reader, query, reranked))
    return pipeline


def _first_stage(pipeline: Pipeline, query: Wire[Query], index: str | Path | None) -> Wire[Ranking]:
    lexical = pipeline.add(_make("BM25", index=index, k=CANDIDATES), query)
    if index is not None and not getattr(open_store(f"lance:{index}"), "encoders", None):
        return lexical
    dense = pipeline.add(_make("Dense", index=index, k=CANDIDATES), query)
    return pipeline.add(_make("Fuse", k=CANDIDATES), lexical, dense)


def _make(stage: str, **settings: Any) -> Any:
    return stage_class(stage)(**settings)
