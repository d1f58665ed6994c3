"""Broken pipelines: each is refused with its own words, before any model is loaded.

A case is what somebody may write, and all of the message that it gets; ``INDEX`` and the like stand for the paths of
the test's own indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from regard.indexers import build_index
from regard.rag import Batch, Document, Pipeline, Query, Ranking
from regard.rag.dag.control import Cascade, Choose, Each, Loop
from regard.rag.dag.stage import Stage
from regard.rag.errors import RegardError
from regard.rag.models import sharing
from regard.rag.nouns import Group, State, Verdict
from regard.readers import Reader, RemoteReader
from regard.rerankers import AttentionReranker, CrossEncoder, Margin
from regard.retrievers import BM25, Dense, Fuse, Parents

DOCUMENTS = [Document(f"d{i}", f"The tower number {i} is {i} metres tall.") for i in range(8)]


class Two(NamedTuple):
    kept: Batch[Ranking]
    dropped: Batch[Ranking]


class Split(Stage):
    def run(self, rankings: Batch[Ranking]) -> Two:
        return Two(rankings, rankings)


class Untyped(Stage):
    def run(self, queries):  # type: ignore[no-untyped-def]  # that is the point
        return queries


def rewrite(query: Query) -> Group[Query]:
    return Group([query])


def gate(query: Query) -> Verdict:
    return Verdict("easy")


def untyped(query):  # type: ignore[no-untyped-def]  # that is the point
    return query


def again(state: State) -> State:
    return state


def searched(index: str, *stages: Any) -> Pipeline:
    """BM25, then stages that take a query and a ranking."""
    p = Pipeline()
    query = p.input(Query)
    last = p.add(BM25(index), query)
    for stage in stages:
        last = p.add(stage, query, last)
    return p.output(out=last)


def of(stage: Any, *kinds: Any) -> Pipeline:
    """A pipeline of one stage, fed by inputs of these types."""
    p = Pipeline()
    return p.output(out=p.add(stage, *(p.input(kind) for kind in kinds)))


def two_wires(index: str) -> Pipeline:
    p, other = Pipeline(), Pipeline()
    p.add(BM25(index), other.input(Query))
    return p


def by_name(index: str, **wired: str) -> Pipeline:
    p = Pipeline()
    wires = {"query": (query := p.input(Query)), "ranking": p.add(BM25(index), query)}
    return p.output(out=p.add(CrossEncoder(), **{port: wires[wire] for port, wire in wired.items()}))


def shadowed(index: str, name: str) -> Pipeline:
    p = Pipeline()
    return p.output(**{name: p.add(BM25(index), p.input(Query))})


def twice(index: str) -> Pipeline:
    p = Pipeline()
    query = p.input(Query)
    p.add(BM25(index), query, name="bm25")
    p.add(BM25(index), query, name="bm25")
    return p


def unfed(index: str) -> Pipeline:
    p = Pipeline()
    p.add(BM25(index), p.input(Query))
    return p


def handed_back(index: str) -> Pipeline:
    p = Pipeline()
    return p.output(query=p.input(Query))


def file(text: str) -> Callable[[dict[str, str], Path], Pipeline]:
    def load(names: dict[str, str], folder: Path) -> Pipeline:
        (folder / "p.yaml").write_text(text.format(**names))
        return Pipeline.load(folder / "p.yaml")
    return load


def made(make: Callable[[dict[str, str]], Pipeline]) -> Callable[[dict[str, str], Path], Pipeline]:
    return lambda names, folder: make(names)


BM25_FILE = "regard: 2\nstages: {{bm25: {{part: BM25, inputs: [query], index: '{index}'}}}}\noutputs: {{passages: bm25}}\n"  # noqa: E501

CASES: dict[str, Callable[[dict[str, str], Path], Pipeline]] = {
    # -- how stages are connected ----------------------------------------------------
    "a query where a ranking is taken": made(lambda n: of(Parents(), Query)),
    "inputs in the wrong order": made(lambda n: of(CrossEncoder(), Ranking, Query)),
    "a port that is not connected": made(lambda n: of(CrossEncoder(), Query)),
    "no ranking for the reader": made(lambda n: of(Reader(), Query)),
    "too many inputs": made(lambda n: of(BM25(n["index"]), Query, Query)),
    "nothing to fuse": made(lambda n: of(Fuse())),
    "an unknown port": made(lambda n: by_name(n["index"], queries="query", passages="ranking")),
    "a port twice": made(lambda n: (p := Pipeline()).output(out=p.add(BM25(n["index"]), q := p.input(Query),
                                                                      queries=q))),
    "another pipeline's wire": made(lambda n: two_wires(n["index"])),
    "a name that is taken": made(lambda n: twice(n["index"])),
    "no output": made(lambda n: unfed(n["index"])),
    "an input handed back": made(lambda n: handed_back(n["index"])),
    "an output that hides the trace": made(lambda n: shadowed(n["index"], "trace")),
    "an output that is no name": made(lambda n: shadowed(n["index"], "the best")),
    "a class in the place of a stage": made(lambda n: of(BM25, Query)),
    "a thing that is no stage": made(lambda n: of(7, Query)),
    "a stage without annotations": made(lambda n: of(Untyped(), Query)),
    "a function without annotations": made(lambda n: of(untyped, Query)),
    "a lambda without types": made(lambda n: of(lambda query: query, Query)),
    "an input that is no type": made(lambda n: of(BM25(n["index"]), "Query")),
    "one of several outputs, unnamed": file(
        "regard: 2\ninputs: {{ranking: Ranking}}\nstages: {{split: {{part: '" + __name__
        + ":Split', inputs: [ranking]}}, "
        "best: {{part: Parents, inputs: [split]}}}}\noutputs: {{best: best}}\n"),
    # -- settings --------------------------------------------------------------------
    "an unknown setting": made(lambda n: of(BM25(n["index"], top_k=3), Query)),
    "a setting of another type": made(lambda n: of(BM25(n["index"], k="many"), Query)),
    "a setting out of its bounds": made(lambda n: of(BM25(n["index"], k=0), Query)),
    "a setting that must be given": made(lambda n: of(RemoteReader(), Query, Ranking)),
    "two settings by position": made(lambda n: of(BM25(n["index"], 10), Query)),
    "a policy that there is not": made(lambda n: of(AttentionReranker(policy="BlockCIR"), Query, Ranking)),
    "settings that contradict": made(lambda n: of(AttentionReranker(policy="ICR", share=2), Query, Ranking)),
    "an instruction without passages": made(lambda n: of(Reader(instruction="Answer: {question}"), Query, Ranking)),
    # -- files -----------------------------------------------------------------------
    "a stage that there is not": file(BM25_FILE.replace("part: BM25", "part: BN25")),
    "a setting that there is not, in a file": file(BM25_FILE.replace("index:", "indx:")),
    "a source that there is not": file(BM25_FILE.replace("[query]", "[question]")),
    "an output of nothing": file(BM25_FILE.replace("passages: bm25", "passages: bm52")),
    "a cycle": file("regard: 2\nstages:\n  a: {{part: Parents, inputs: [b]}}\n  b: {{part: Parents, inputs: "
                    "[a]}}\noutputs: {{out: a}}\n"),
    "an input type that there is not": file("inputs: {{query: Querry}}\n" + BM25_FILE),
    "a stage without inputs": file(BM25_FILE.replace("inputs: [query], ", "")),
    "the older form": file("regard: 1\nstages: {{bm25: {{stage: BM25, inputs: [query], settings: {{k: "
                           "3}}}}}}\noutputs: {{out: bm25}}\n"),
    "code that was not imported": file(BM25_FILE.replace("part: BM25", "part: 'evil.module:Stage'")),
    "no pipeline at all": file("just text\n"),
    # -- what is there ---------------------------------------------------------------
    "no index": made(lambda n: searched(n["missing"])),
    "no view": made(lambda n: of(BM25(n["dense"]), Query)),
    "no vectors": made(lambda n: of(Dense(n["index"]), Query)),
    "an encoder that the index was not made with": made(lambda n: of(Dense(n["dense"], encoder="bge-small"), Query)),
    "an encoder of the same name, used otherwise": made(lambda n: of(Dense(n["dense"],
                                                                           encoder="minilm:normalize=false"), Query)),
    "no text for the reranker": made(lambda n: (p := Pipeline()).output(out=p.add(
        CrossEncoder(), q := p.input(Query), p.add(Dense(n["textless"]), q)))),
    "no model": made(lambda n: searched(n["index"], CrossEncoder("/no/such/model"))),
    "a model of another kind": made(lambda n: searched(n["index"], CrossEncoder("smollm2"))),
    "a prompt that fits no window": made(lambda n: searched(n["index"], Reader(budget=8192))),
    "no key": made(lambda n: searched(n["index"], RemoteReader("gpt"))),
    "an address that is none": made(lambda n: searched(n["index"], RemoteReader("m", base_url="ftp://x"))),
    # -- control ---------------------------------------------------------------------
    "a group that is none": made(lambda n: of(Each(BM25(n["index"])), Query)),
    "an input of the body that there is not": made(lambda n: of(Each(BM25(n["index"]), over="queries"), Group[Query])),
    "routes of different types": made(lambda n: of(Choose(gate, routes={"easy": BM25(n["index"]), "hard": rewrite}),
                                                   Query)),
    "a gate that gives no verdict": made(lambda n: of(Choose(rewrite, routes={"easy": BM25(n["index"])}), Query)),
    "no routes": made(lambda n: of(Choose(gate), Query)),
    "a route otherwise that there is not": made(lambda n: of(Choose(gate, routes={"easy": BM25(n["index"])},
                                                                    otherwise="hard"), Query)),
    "a loop without an end": made(lambda n: of(Loop(again), State)),
    "a loop that does not close": made(lambda n: of(Loop(BM25(n["index"]), most=2), State)),
    "a loop until nothing": made(lambda n: of(Loop(again, most=2, until=gate), State)),
    "a cascade of no rerankers": made(lambda n: of(Cascade((BM25(n["index"]),), enough=Margin()), Query, Ranking)),
    "a body that takes its own output": made(lambda n: of(Each(Pipeline()), Group[Query])),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Indexes by name."""
    root = tmp_path_factory.mktemp("broken")
    build_index(DOCUMENTS, root / "index", encoder=None, chunker="whole", progress=False)
    build_index(DOCUMENTS, root / "dense", chunker="whole", views=["faiss:flat"], progress=False)
    build_index(DOCUMENTS, root / "textless", chunker="whole", views=["faiss:flat"], text=False, progress=False)
    return {"index": str(root / "index"), "dense": str(root / "dense"), "textless": str(root / "textless"),
            "missing": str(root / "missing")}


def _message(make: Callable[[dict[str, str], Path], Pipeline], names: dict[str, str], folder: Path) -> str:
    """What is said, with notes, and with the names of the paths in it."""
    try:
        with make(names, folder):
            return "nothing was said"
    except RegardError as error:
        text = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    for name, path in {**names, "file": str(folder / "p.yaml")}.items():
        text = text.replace(path, name.upper())
    return re.sub("'[0-9a-f]{32}'", "HASH", text.replace(__name__, "HERE"))


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case: str, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    held = dict(sharing._pool)
    said = _message(CASES[case], names, tmp_path)
    assert sharing._pool == held, "a model was loaded"
    assert said == MESSAGES[case]


MESSAGES: dict[str, str] = dict(section.strip().split("\n", 1) for section in
                Path(__file__).with_name("broken.txt").read_text(encoding="utf-8").split("## ")[1:])
