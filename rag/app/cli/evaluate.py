"""``regard eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...errors import ConfigError
from .options import AllowKey, IndexOption, Json, OtherPipeline, QrelsFile, Trust
from .output import print_json, show

if TYPE_CHECKING:
    from ...dag.pipeline import Pipeline

CorrectionOption = Literal["holm", "none"]
_ORDER = ("Instead of scoring runs: rerank a pipeline's candidates best first, best last and shuffled, and compare.")

app = typer.Typer(add_completion=False)


@app.command("eval", epilog="Examples: regard eval bm25.trec fused.trec --qrels qrels/test.tsv -m nDCG@10 -m R@100 · "
                            "regard eval --order-sensitivity --pipeline p.yaml --index my-index "
                            "--queries queries.jsonl --qrels qrels/test.tsv")
def evaluate(
    qrels: QrelsFile,
    runs: Annotated[list[Path] | None, typer.Argument(
        metavar="RUN...", show_default=False, help="TREC runs; the others are compared with the first.")] = None,
    metric: Annotated[list[str] | None, typer.Option(
        "-m", "--metric", help="nDCG@10, AP, RR@10, R@100, P@10, ...")] = None,
    correction: Annotated[CorrectionOption, typer.Option(
        help="Of the p values, over all comparisons of the table.")] = "holm",
    order_sensitivity: Annotated[bool, typer.Option("--order-sensitivity", help=_ORDER)] = False,
    pipeline: OtherPipeline = None,
    index: IndexOption = None,
    queries: Annotated[Path | None, typer.Option(help="Queries: JSON lines with _id (or id) and text.")] = None,
    reranker: Annotated[str | None, typer.Option(
        metavar="NAME", help="The stage to test. Default: the pipeline's last reranker.")] = None,
    k: Annotated[int, typer.Option("-k", min=2, help="How many candidates are put in order.")] = 20,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Score runs, with a paired randomisation test of each against the first; or show what a candidate's place does to
    a reranker."""
    if order_sensitivity:
        if runs or queries is None or (pipeline is None and index is None):
            raise ConfigError("--order-sensitivity takes a pipeline and queries, and no runs", where="regard eval",
                              hint="give --queries, and --pipeline, --index or both")
        from .opening import pipeline_for

        tested = pipeline_for(index, pipeline, answer=False, allow_key=allow_key, trust=trust)
        _evaluate_order(tested, queries, qrels, reranker, k, metric, correction, as_json)
        return
    if not runs or pipeline or index or queries or reranker:
        raise ConfigError("eval scores runs", where="regard eval",
                          hint="give at least one RUN, or --order-sensitivity for a pipeline")
    _compare(runs, qrels, metric or ["nDCG@10", "AP", "R@100"], correction, as_json)


def _compare(runs: list[Path], qrels: Path, metrics: list[str], correction: CorrectionOption, as_json: bool) -> None:
    from ...evaluation.significance import compare
    from ...evaluation.trec import read_qrels, read_run

    names = [str(path) if [r.stem for r in runs].count(path.stem) > 1 else path.stem for path in runs]
    named = {name: read_run(path) for name, path in zip(names, runs, strict=True)}
    rows = compare(named, read_qrels(qrels), metrics, correction=correction)
    if as_json:
        print_json([row.to_dict() for row in rows])
    else:
        from ..terminal.scores import show_comparison

        show_comparison(rows)


def _evaluate_order(
    pipeline: Pipeline, queries: Path, qrels: Path, reranker: str | None, k: int, metrics: list[str] | None,
    correction: CorrectionOption, as_json: bool,
) -> None:
    from ...evaluation.order import pipeline_order_sensitivity
    from ..terminal.scores import show_order

    report = pipeline_order_sensitivity(pipeline, queries, qrels, reranker=reranker, k=k,
                                        measures=metrics or ["nDCG@10"], correction=correction)
    show(report, as_json, show_order)
