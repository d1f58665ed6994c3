"""The ``regard`` command. Stages and the indexing job are found through the registry; heavy imports happen inside commands."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import ConfigError, RegardError
from ..files import write_text
from ..markup import json_escaped, visible

app = typer.Typer(
    name="regard", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Retrieval-augmented generation as a typed DAG: index, search, rerank, and answer with citations.",
    epilog="Start with [bold]regard demo[/bold], or: regard index docs/ --index my-index && regard ask my-index 'How do I ...?'",
)
_DETECT_EXAMPLE = ("Example: regard heads detect --model smollm2 --queries xquad/queries.jsonl --index xquad-index "
                   "--qrels xquad/qrels/test.tsv -o heads.json")
heads = typer.Typer(no_args_is_help=True, help="Attention heads of a language model, for reranking.", epilog=_DETECT_EXAMPLE)
app.add_typer(heads, name="heads")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"regard {version('regard')}")
        raise typer.Exit


@app.callback()
def regard(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """What all commands share: nothing but these options (the help text is the app's)."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
IndexDir = Annotated[Path, typer.Argument(metavar="DIR", help="An index folder, made by `regard index`.", show_default=False)]
PipelineFile = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A pipeline file.", show_default=False)]
OtherPipeline = Annotated[Path | None, typer.Option("--pipeline", metavar="FILE.yaml", help="A pipeline file instead of the default.")]
Purge = Annotated[bool, typer.Option("--purge", help="Leave no byte of deleted documents in the folder: all older versions go, or it is "
                                     "refused, naming the tag or the reader that still uses one. It cannot reach stage caches and other "
                                     "files elsewhere, backups, file system snapshots, or freed blocks of the disk.")]
Wait = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="With --purge: give open readers so long to close.")]
AllowKey = Annotated[list[str] | None, typer.Option("--allow-key", metavar="HOST=VAR", help="Let the file send the key in this "
                                                    "environment variable to this server; again for more.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load the models that an index from others names.")]
Filters = Annotated[list[str] | None, typer.Option("--filter", metavar="FIELD=VALUE", help="Only passages with this metadata.")]


_LIMITS = (
    "A limit on what is read; what goes over it is skipped and counted. Give it again for more. Defaults: "
    "record_bytes=16M (a line, a row), file_bytes=256M, decompressed_bytes=1T, decompressed_ratio=200, document_characters=16M, "
    "stored_characters=64M, passage_characters=1M, metadata_depth=32, id_characters=4096, seconds=120 and memory_bytes=1G (parsing "
    "one document), outside_links=false."
)


@app.command(epilog="Examples: regard index docs/ --index my-index · regard index python: --index std --view bm25 --encoder none · "
                    "regard index scifact/ --index sf --format beir --chunker whole --view faiss:hnsw,m=48 --view bm25")
def index(
    index: Annotated[Path, typer.Option("--index", metavar="DIR", help="The index folder to make or to bring up to date.")],
    sources: Annotated[list[str] | None, typer.Argument(
        metavar="SOURCE...", show_default=False, help="Files, folders, or python: (its docstrings). None: only add encoders and views.",
    )] = None,
    format: Annotated[str, typer.Option(help="auto, folder, jsonl, beir, trec, parquet or python.")] = "auto",
    encoder: Annotated[str, typer.Option(help="Dense encoder: minilm, bge-small, a folder, a Hugging Face id, or none. "
                                              "auto: the index's own, minilm for a new index.")] = "auto",
    chunker: Annotated[str, typer.Option(help="whole, sentences:200,overlap=40, tokens:128,overlap=16 or markdown:300. "
                                              "auto: the index's own, sentences for a new index.")] = "auto",
    view: Annotated[list[str] | None, typer.Option(help="bm25, faiss:flat, faiss:hnsw,m=32 or faiss:ivf; give it again for more. "
                                                           "Default: faiss:flat and bm25.")] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Do not store the text (dense search only, no reranking).")] = False,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=_LIMITS)] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete documents that are no longer in these sources.")] = False,
    prune_limit: Annotated[float, typer.Option(min=0, max=1, help="Prune nothing where more than this share of a source's documents is "
                                                                  "gone (its disk may not be mounted); 1: any.")] = 0.5,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Index documents; run it again to add, to update, or to finish a job that was killed. Ctrl-C keeps what is done."""
    from ..tables import table

    if (index / "passages.lance").exists():
        _consent([index], trust)
    try:
        report = table("regard.jobs")["index"](
            sources or None, index, format=format, encoder=None if encoder == "none" else encoder, chunker=chunker, views=view,
            text=not no_text, limits=limit or (), prune=prune, prune_limit=prune_limit)
    except KeyboardInterrupt as stop:
        _say(f"interrupted: {stop or 'the same command goes on from what is committed'}", error=True)
        raise typer.Exit(130) from None  # as shells report a process that Ctrl-C ended
    if as_json:
        _print_json(report.to_dict())
    else:
        from .terminal import show_report

        show_report(report)


@app.command(epilog="Examples: regard delete my-index notes/old.md · regard delete my-index --from gone.txt · "
                    "regard delete my-index --source docs/ --purge --wait 30")
def delete(
    index: IndexDir,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", show_default=False, help="Ids of documents.")] = None,
    listed: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="A file with an id on each line.")] = None,
    source: Annotated[str | None, typer.Option(metavar="PATH", help="All documents that were last read from this source.")] = None,
    purge: Purge = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Delete documents. They are not found any more; their text goes from the disk with --purge, or with the next `regard compact`."""
    from ..tables import table

    if not ids and listed is None and source is None:
        raise ConfigError("nothing says what to delete", where="regard delete", hint="give ids, --from FILE or --source PATH")
    wanted = [*(ids or []), *(_lines(listed) if listed else [])]
    report = table("regard.jobs")["delete"](index, wanted, source=source, purge=purge, wait=wait)
    if as_json:
        _print_json(report.to_dict())
    else:
        from .terminal import show_deletion

        show_deletion(report)


@app.command(epilog="Examples: regard compact my-index · regard compact my-index --keep 3 · regard compact my-index --purge --wait 30")
def compact(
    index: IndexDir,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep. Those with a tag, and those that an open reader on this "
                                                  "machine uses, stay as well.")] = 1,
    purge: Purge = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Write small and partly deleted files together, and remove older versions and what dead jobs left."""
    from ..tables import table

    report = table("regard.jobs")["compact"](index, keep=keep, purge=purge, wait=wait)
    if as_json:
        _print_json(report.to_dict())
    else:
        from .terminal import show_compaction

        show_compaction(report)
@app.command(epilog="Examples: regard verify my-index · regard verify my-index --repair && regard index docs/ --index my-index")
def verify(
    index: IndexDir,
    repair: Annotated[bool, typer.Option("--repair", help="Build damaged views anew, and take out damaged documents.")] = False,
    as_json: Json = False,
) -> None:
    """Read an index whole and say what is damaged. Exits with 1 when something is, and was not repaired.

    --repair names the documents that it took out: index their sources again.
    """
    from ..tables import table

    report = table("regard.jobs")["verify"](index, repair=repair)
    if as_json:
        _print_json(report.to_dict())
    else:
        from .terminal import show_verified

        show_verified(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Examples: regard search my-index 'flea life cycle' -k 5 · regard search my-index 'tax law' --filter year=2024 --json")
def search(
    index: IndexDir,
    query: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to show.")] = 10,
    pipeline: OtherPipeline = None,
    filter: Filters = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Rank passages: BM25, dense retrieval and a cross-encoder, fused, unless --pipeline says otherwise."""
    from ..nouns import Ranking
    from .terminal import ranking_json, show_ranking

    with _pipeline(index, pipeline, answer=False, allow_key=allow_key, trust=trust) as p:
        result = p.run(_query(query, filter))
    ranking = _first(result, Ranking, p.name).top(k)
    if as_json:
        _print_json({"query": query, "passages": ranking_json(ranking), "trace": result.trace.to_dict()})
    else:
        show_ranking(query, ranking, result.trace)


@app.command(epilog="Example: regard ask my-index 'How long does a flea live?'")
def ask(
    index: IndexDir,
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to list in the JSON.")] = 10,
    pipeline: OtherPipeline = None,
    filter: Filters = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Answer a question: the answer streams, then its citations follow."""
    from ..dag.pipeline import RunDone
    from ..dag.trace import TextDelta
    from ..markup import Streamed
    from ..nouns import Answer, Ranking
    from .terminal import answer_json, ranking_json, show_citations

    shown = Streamed()
    with _pipeline(index, pipeline, answer=True, allow_key=allow_key, trust=trust) as p:
        for event in p.stream(_query(question, filter)):
            if isinstance(event, TextDelta) and not as_json:
                print(shown(event.text), end="", flush=True)
            elif isinstance(event, RunDone):
                result = event.result
    answer, ranking = _first(result, Answer, p.name), _first(result, Ranking, p.name, optional=True)
    if as_json:
        passages = ranking_json(ranking.top(k)) if ranking is not None else []
        _print_json({"query": question, "passages": passages, "trace": result.trace.to_dict(), "answer": answer_json(answer)})
    else:
        print()
        show_citations(answer, result.trace)


@app.command(epilog="Example: regard init pipeline.yaml && regard run pipeline.yaml --index my-index --queries queries.jsonl "
                    "--out run.trec && regard eval run.trec --qrels qrels/test.tsv")
def run(
    file: PipelineFile,
    queries: Annotated[Path, typer.Option(help="Queries: JSON lines with _id (or id) and text.")],
    out: Annotated[Path, typer.Option(help="The TREC run to write.")],
    index: Annotated[Path | None, typer.Option(help="The index for every stage that takes one.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Queries in one batch.")] = 64,
    by: Annotated[Literal["document", "passage"], typer.Option(help="What the run ranks; a document by its best passage.")] = "document",
    cache: Annotated[Path | None, typer.Option(help="Keep deterministic stages' outputs in this folder.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Also write the answers, as JSON lines, if the pipeline gives any.")] = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline over a file of queries and write a TREC run."""
    from .batch import run_queries

    summary = run_queries(_load(file, index, allow_key, trust), queries, out, batch=batch, by=by, cache=cache, answers=answers)
    if as_json:
        _print_json(summary)
    else:
        _say(f"{summary['queries']} queries in {summary['seconds']:.1f} s -> {out}")


@app.command("eval", epilog="Examples: regard eval bm25.trec fused.trec --qrels qrels/test.tsv -m nDCG@10 -m R@100 · regard eval "
                            "--order-sensitivity --pipeline p.yaml --index my-index --queries queries.jsonl --qrels qrels/test.tsv")
def evaluate(
    qrels: Annotated[Path, typer.Option(help="Relevance judgments: TREC's four columns or BEIR's three.")],
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", show_default=False,
                                                       help="TREC runs; the others are compared with the first.")] = None,
    metric: Annotated[list[str] | None, typer.Option("-m", "--metric", help="nDCG@10, AP, RR@10, R@100, P@10, ...")] = None,
    correction: Annotated[Literal["holm", "none"], typer.Option(help="Of the p values, over all comparisons of the table.")] = "holm",
    order_sensitivity: Annotated[bool, typer.Option("--order-sensitivity", help="Instead of scoring runs: rerank a pipeline's candidates "
                                                    "best first, best last and shuffled, and compare.")] = False,
    pipeline: OtherPipeline = None,
    index: Annotated[Path | None, typer.Option(help="The index for every stage that takes one.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries: JSON lines with _id (or id) and text.")] = None,
    reranker: Annotated[str | None, typer.Option(metavar="NAME", help="The stage to test. Default: the pipeline's last reranker.")] = None,
    k: Annotated[int, typer.Option("-k", min=2, help="How many candidates are put in order.")] = 20,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Score runs, with a paired randomisation test of each against the first; or show what a candidate's place does to a reranker."""
    if order_sensitivity:
        if runs or queries is None or (pipeline is None and index is None):
            raise ConfigError("--order-sensitivity takes a pipeline and queries, and no runs", where="regard eval",
                              hint="give --queries, and --pipeline, --index or both")
        tested = _pipeline(index, pipeline, answer=False, allow_key=allow_key, trust=trust)
        _evaluate_order(tested, queries, qrels, reranker, k, metric, correction, as_json)
        return
    if not runs or pipeline or index or queries or reranker:
        raise ConfigError("eval scores runs", where="regard eval", hint="give at least one RUN, or --order-sensitivity for a pipeline")
    from ..evaluation.significance import compare
    from ..evaluation.trec import read_qrels, read_run

    names = [str(path) if [r.stem for r in runs].count(path.stem) > 1 else path.stem for path in runs]
    rows = compare({name: read_run(path) for name, path in zip(names, runs, strict=True)}, read_qrels(qrels),
                   metric or ["nDCG@10", "AP", "R@100"], correction=correction)
    if as_json:
        _print_json([row.to_dict() for row in rows])
    else:
        from .terminal import show_comparison

        show_comparison(rows)


def _evaluate_order(
    pipeline: Any, queries: Path, qrels: Path, reranker: str | None, k: int, metrics: list[str] | None,
    correction: Literal["holm", "none"], as_json: bool,
) -> None:
    from ..evaluation.order import pipeline_order_sensitivity

    report = pipeline_order_sensitivity(pipeline, queries, qrels, reranker=reranker, k=k, measures=metrics or ["nDCG@10"],
                                        correction=correction)
    if as_json:
        _print_json(report.to_dict())
    else:
        from .terminal import show_order

        show_order(report)


@app.command(epilog="Examples: regard init · regard init hybrid.yaml --index my-index --no-answer")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The file to write.")] = Path("pipeline.yaml"),
    index: Annotated[Path | None, typer.Option(metavar="DIR", help="Name this index in it; else the file runs with --index.")] = None,
    answer: Annotated[bool, typer.Option(help="With the stage that answers, or the search alone.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the default pipeline as a YAML file, to change and to run: the stages that `regard search` and `regard ask` run."""
    if file.exists() and not force:
        raise ConfigError("the file is there already", where=str(file), hint="name another, or replace it with --force")
    from .presets import default_pipeline

    default_pipeline(index, answer=answer).save(file)
    _say(f"wrote {file}; next: regard check {file}" + ("" if index else " --index my-index"))


@app.command(epilog="Example: regard init pipeline.yaml && regard check pipeline.yaml --index my-index")
def check(
    file: PipelineFile,
    index: Annotated[Path | None, typer.Option(help="The index for every stage that takes one.")] = None,
    allow_key: AllowKey = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong with a pipeline before any model is loaded, and list the servers and keys that it would use.

    Exits with 1 when it cannot run.
    """
    from dataclasses import asdict

    pipeline = _load(file, index, allow_key, trust)
    problems = pipeline.check()
    connections = pipeline.connections()
    if as_json:
        _print_json({
            "file": str(file), "ok": not any(p.fatal for p in problems), "problems": [asdict(p) for p in problems],
            "connections": [{"stage": stage, **asdict(c), "allowed": not c.refused} for stage, used in connections.items() for c in used],
        })
    else:
        from .terminal import show_connections, show_problems

        show_connections(connections)
        show_problems(str(file), problems)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(1)


@app.command(epilog="Example: regard graph pipeline.yaml -o pipeline.svg")
def graph(
    file: PipelineFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.svg",
                                                  help="SVG or .mmd (Mermaid); without it Mermaid is printed.")] = None,
) -> None:
    """Draw a pipeline, with no network and no browser."""
    pipeline = _load(file, None)
    if out is None:
        _say(pipeline.to_mermaid())
        return
    if out.suffix not in (".svg", ".mmd", ".md"):
        raise ConfigError(f"cannot draw a {out.suffix or 'file without ending'}", where=str(out), hint="use .svg or .mmd")
    write_text(out, pipeline.to_svg() if out.suffix == ".svg" else pipeline.to_mermaid())
    _say(f"wrote {out}")


@heads.command("detect", epilog=_DETECT_EXAMPLE)
def detect(
    queries: Annotated[Path, typer.Option(help="Queries: JSON lines with _id (or id) and text.")],
    index: Annotated[Path, typer.Option(metavar="DIR", help="An index with a BM25 view, which gives the candidates.")],
    qrels: Annotated[Path, typer.Option(help="Relevance judgments: TREC's four columns or BEIR's three.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The head set to write.")],
    model: Annotated[str, typer.Option(help="The language model: smollm2, a GGUF file, a folder or a Hugging Face id.")] = "smollm2",
    mask: Annotated[Literal["block", "causal"], typer.Option(help="block: passages do not see each other (for BlockICR); causal: they "
                                                                  "do (for QRHead and CoRe).")] = "block",
    depth: Annotated[int, typer.Option(min=2, help="Candidates a query, shuffled.")] = 20,
    limit: Annotated[int, typer.Option(min=0, help="So many random queries; 0: all.")] = 0,
    task: Annotated[Literal["search", "qa"], typer.Option(help="The instruction's wording.")] = "search",
    temperature: Annotated[float | None, typer.Option(help="Of CoRe's measure; none: .1 for models named Llama or Phi, else .001.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Heads to print.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure which attention heads tell relevant passages apart; rerankers take the file as heads=..."""
    from ..tables import table

    found = table("regard.jobs")["heads"](model, queries, index, qrels, out, limit=limit, depth=depth, mask=mask, task=task,
                                         temperature=temperature)
    if as_json:
        _print_json({"model": found.model, "recipe": found.recipe, **{m: found.top(m, top) for m in found.measures}})
    else:
        from .terminal import show_heads

        show_heads(found, top)
        _say(f"-> {out}")


@app.command(epilog="Examples: regard doctor --json · regard doctor --index my-index")
def doctor(
    index: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Also say whether this index's views fit the disk.")] = None,
    as_json: Json = False,
) -> None:
    """What is installed, which device each stage would use, which embedded models are here, and what to install."""
    from .doctor import examine

    findings = examine(index)
    if as_json:
        _print_json(findings)
    else:
        from .terminal import show_doctor

        show_doctor(findings)


@app.command(epilog="Examples: regard demo · regard demo --out /tmp/demo --ask 'How do I copy a file?'")
def demo(
    out: Annotated[Path, typer.Option(help="Where the index and the report go.")] = Path("regard-demo"),
    question: Annotated[list[str] | None, typer.Option("--ask", help="Ask this instead of the demo's own; again for more.")] = None,
    as_json: Json = False,
) -> None:
    """Index the standard library's docstrings, ask questions, show cited answers, and write an HTML report."""
    from .demo import run_demo

    shown = run_demo(out, question, quiet=as_json)
    if as_json:
        _print_json(shown.to_dict())


def _pipeline(index: Path | None, file: Path | None, *, answer: bool, allow_key: list[str] | None, trust: bool) -> Any:
    if file is not None:
        return _load(file, index, allow_key, trust)
    from .presets import default_pipeline

    _consent([index or Path()], trust)
    return default_pipeline(index or Path(), answer=answer)


def _load(file: Path, index: Path | None, allow_key: list[str] | None = None, trust: bool = False) -> Any:
    from ..dag.pipeline import Pipeline

    pipeline = Pipeline.load(file, allow_keys=allow_key or (), **({"index": index} if index else {}))
    _consent(pipeline.indexes(), trust)
    return pipeline


def _consent(indexes: list[Path], trust: bool) -> None:
    """Before an index's models are loaded: with ``--trust``, or a yes on a terminal, they count as the user's own choice. Else the stage
    that would load one refuses to."""
    from ..models.chosen import choose
    from ..tables import table

    for index in indexes:
        try:
            unknown = table("regard.jobs")["models"](index)
        except RegardError:
            continue  # whoever opens it says what is wrong with it
        for what, model in unknown:
            if trust:
                choose(model, remember=False)
            elif sys.stdin.isatty() and sys.stderr.isatty():
                asked = f"The index {index} names {model!r} as its {what}, and you have not. Load it?"
                if typer.confirm(asked, err=True):
                    choose(model)


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of ids cannot be read: {error}", where=str(file), hint="one id a line, in UTF-8") from None


def _query(text: str, filters: list[str] | None) -> Any:
    from ..nouns import Query

    return Query(text, filters=dict(_filter(item) for item in filters or []))


def _filter(item: str) -> tuple[str, Any]:
    """``year=2024``: the value is read as JSON where it is JSON, else as text."""
    field, equals, value = item.partition("=")
    if not field or not equals:
        raise ConfigError(f"{item!r} is no filter", where="--filter", hint="write FIELD=VALUE, for example year=2024")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _first(result: Any, kind: type, name: str, *, optional: bool = False) -> Any:
    """The pipeline's output of this kind; the first one where there are several."""
    found = next((value for value in result.outputs.values() if isinstance(value, kind)), None)
    if found is None and not optional:
        raise ConfigError(f"the pipeline has no output of type {kind.__name__}", where=name,
                          hint=f"name one under outputs; it gives {', '.join(result.outputs)}")
    return found


def _print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"), default=str)
    print(json_escaped(text))


def _say(text: str, *, error: bool = False) -> None:
    """Print a line in which a terminal obeys nothing."""
    print(visible(text), file=sys.stderr if error else sys.stdout)


def main() -> None:
    """Run the command; one of Regard's own errors is printed, not traced (``REGARD_DEBUG=1`` traces it)."""
    _keep_terminal_safe()
    try:
        app()
    except RegardError as error:
        if os.environ.get("REGARD_DEBUG"):
            raise
        _say("\n".join((f"error: {error}", *getattr(error, "__notes__", ()))), error=True)
        sys.exit(1)
    finally:
        _flush()


def _flush() -> None:
    """Whoever stops reading (``| head``) sees no complaint, not even of Python as it exits."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _keep_terminal_safe() -> None:
    """Log lines, warnings and tracebacks may quote a document; and what the terminal's encoding lacks is no reason to fail."""

    class Visible(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return visible(super().format(record))

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # some libraries' loggers have a lower level of their own
    handler.setFormatter(Visible())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: _say("".join(traceback.format_exception(kind, error, trace)).rstrip(), error=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
