"""Stages as values: one object in several places at once, names that decide nothing, ports by name, several outputs,
and what a stage may not do to what it was given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from regard.rag import Answer, Batch, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.config import dump, parse
from regard.rag.dag.draft import Body
from regard.rag.dag.executor import OpenPlan
from regard.rag.dag.scope import Scope
from regard.rag.dag.trace import record
from regard.rag.errors import ConfigError, PipelineError, PortTypeError, RegardError, StageError
from regard.retrievers import BM25, Dense, Fuse

STORE = PassageList([Passage(str(i), str(i), f"passage {i}", 0, 9) for i in range(20)])


class Retrieve(Stage):
    """Scores fall from row ``start`` on; ``opened``: how many times any was opened."""

    opened_times: ClassVar[list[int]] = [0]

    k: int = 3
    start: int = 0

    def open(self, scope: Scope, /) -> PassageList:
        self.opened_times[0] += 1
        return STORE

    def run(self, store: PassageList, queries: Batch[Query]) -> Batch[Ranking]:
        rows = range(self.start, self.start + self.k)
        record(length=sum(len(query.text) for query in queries))
        return Batch(Ranking.ranked(rows, [len(query.text) - float(r) for r in rows], "bm25", store)
                     for query in queries)


class Reverse(Stage):
    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        return Batch(r.rescore(-r.scores, "logit") for r in rankings)


class Split(NamedTuple):
    first: Batch[Ranking]
    rest: Batch[Ranking]


class Halves(Stage):
    at: int = 1

    def run(self, rankings: Batch[Ranking]) -> Split:
        return Split(Batch(r[:self.at] for r in rankings), Batch(r[self.at:] for r in rankings))


class Inside(Stage):
    """Runs its body over the queries."""

    marks: ClassVar[bool] = False

    body: Body

    def open(self, scope: Scope, /) -> OpenPlan:
        return OpenPlan(self.body, scope)

    def run(self, body: OpenPlan, queries: Batch[Query]) -> Batch[Ranking]:
        (ranking,) = body.run({next(iter(self.body.inputs)): queries}).values()
        return ranking


def retrieving(stage: Stage, name: str, **settings: Any) -> Pipeline:
    p = Pipeline(**settings)
    return p.output(hits=p.add(stage, p.input(Query), name=name))


def names(ranking: Ranking) -> list[str]:
    return [step.stage for step in ranking.steps]


# -- one object in several places -------------------------------------------------------------


def test_the_same_stage_in_two_pipelines_twice_in_one_in_another_stage_and_in_threads_at_once() -> None:
    stage = Retrieve(4)
    one, two = retrieving(stage, "one"), retrieving(stage, "two")
    twice = Pipeline()
    query = twice.input(Query)
    twice.output(a=twice.add(stage, query), b=twice.add(Reverse(), query, twice.add(stage, query)))
    held = retrieving(Inside(stage), "outer")
    asked = {one: [["one"]], two: [["two"]], twice: [["retrieve"], ["retrieve_2", "reverse"]],
             held: [["outer/retrieve"]]}
    wrong: list[Any] = []

    def use(number: int) -> None:
        p = list(asked)[number % 4]
        for i in range(8):
            text = "x" * (1 + (number + i) % 9)
            result = p.run(text)
            lengths = {entry.notes.get("length") for entry in result.trace.stages} - {None}
            if [*map(names, result.values())] != asked[p] or lengths != {len(text)} or any(
                    sorted(ranking.rows) != [0, 1, 2, 3] for ranking in result.values()):
                wrong.append((number, dict(result), lengths))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, range(32)))
    assert wrong == []
    assert vars(stage) == {"k": 4, "start": 0}
    for p in asked:
        p.close()


def test_concurrent_runs_of_one_pipeline_do_not_see_each_others_trace() -> None:
    inside = threading.Barrier(2, timeout=20)

    class Meet(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            inside.wait()  # both runs are here at once
            record(said=queries[0].text, tokens_in=len(queries))
            inside.wait()
            return queries

    p = Pipeline()
    p.output(out=p.add(Meet(), p.input(Query)))
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(p.run, (["a"], ["b", "b"]))
    assert [(r.trace["meet"].notes, r.trace["meet"].tokens_in, r.trace["meet"].queries) for r in (a, b)] == [
        ({"said": "a"}, 1, 1), ({"said": "b"}, 2, 2)]
    assert a.trace.stages[0] is not b.trace.stages[0]


def test_equal_stages_open_once_in_a_pipeline() -> None:
    Retrieve.opened_times[0] = 0
    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Fuse(), *(p.add(Retrieve(k), query) for k in (3, 3, 4))))
    p.run("a")
    assert Retrieve.opened_times == [2]


# -- names decide nothing -------------------------------------------------------------------------


def hybrid(index: Path, called: dict[str, str], cache: Path | None = None) -> Pipeline:
    p = Pipeline(cache=cache)
    query = p.input(Query, name=called["query"])
    parts = [p.add(BM25(index, k=5), query, name=called["bm25"]), p.add(Dense(index, k=5), query, name=called["dense"])]
    fused = p.add(Fuse(), *parts, name=called["fuse"])
    return p.output(hits=p.add(Reverse(), query, fused, name=called["reverse"]))


PLAIN = {name: name for name in ("query", "bm25", "dense", "fuse", "reverse")}
OTHER = {"query": "question", "bm25": "lexical", "dense": "bm25", "fuse": "#0", "reverse": "dense"}


def test_pipelines_that_name_the_same_stages_differently_share_a_cache_and_keep_their_names(facts_index: Path, tmp_path: Path) -> None:  # noqa: E501
    asked = [Query("flea eggs", "a"), Query("yeast and sugar", "b")]
    first = hybrid(facts_index, PLAIN, tmp_path).run(asked)
    second = hybrid(facts_index, OTHER, tmp_path).run(asked)
    fresh = hybrid(facts_index, OTHER).run(asked)
    assert {entry.cache_hits for entry in second.trace.stages} == {2}
    for given, cached, computed in zip(first.hits, second.hits, fresh.hits, strict=True):
        assert cached.to_dict() == computed.to_dict()  # bit for bit, and with its own names
        assert names(cached) == ["lexical", "bm25", "#0", "dense"]
        assert names(given) == ["bm25", "dense", "fuse", "reverse"]
    one, other = (hybrid(facts_index, called) for called in (PLAIN, OTHER))
    assert [node.stage.fingerprint() for node in one.nodes.values()] == [node.stage.fingerprint()
                                                                         for node in other.nodes.values()]


def test_a_stage_within_a_stage_shares_the_cache_under_another_path(tmp_path: Path) -> None:
    first, second = (retrieving(Inside(Retrieve()), name, cache=tmp_path) for name in ("outer", "other"))
    for p, path in ((first, "outer/retrieve"), (second, "other/retrieve"), (first, "outer/retrieve")):
        assert names(p.run(Query("a")).hits) == [path]
    result = second.run(Query("a"))
    assert result.trace["other/retrieve"].cache_hits == 1
    assert result.hits == retrieving(Inside(Retrieve()), "other").run(Query("a")).hits


def test_a_plans_fingerprint_follows_stages_and_connections_and_no_name(facts_index: Path) -> None:
    def made(stage: Stage, name: str, turned: bool = False) -> str:
        p = Pipeline()
        query = p.input(Query)
        a, b = p.add(stage, query, name=name), p.add(Retrieve(start=5), query)
        return p.output(hits=p.add(Fuse(weights=[1, 2]), *((b, a) if turned else (a, b)))).plan().fingerprint()

    assert made(Retrieve(), "a") == made(Retrieve(), "b")
    assert len({made(Retrieve(), "a"), made(Retrieve(4), "a"), made(Retrieve(), "a", turned=True)}) == 3


# -- ports ------------------------------------------------------------------------------------------


def test_ports_by_name() -> None:
    p = Pipeline()
    query = p.input(Query)
    hits = p.add(Retrieve(), queries=query)
    p.output(out=p.add(Reverse(), rankings=hits, queries=query), mixed=p.add(Reverse(), query, rankings=hits))
    result = p.run("a")
    assert result.out.rows.tolist() == result.mixed.rows.tolist() == [2, 1, 0]
    for wrong, says in (({"ranking": hits}, "has no port 'ranking'"),
                        ({"queries": query}, "given port 'queries' twice"),
                        ({}, "port 'rankings' of stage 'reverse_3' .* is not connected")):
        with pytest.raises(PipelineError, match=says):
            p.add(Reverse(), query, **wrong)
    with pytest.raises(PortTypeError, match="it would fit port 'queries'"):
        p.add(Reverse(), queries=query, rankings=query)


def test_several_outputs_by_name_in_python_in_files_and_in_batches() -> None:
    p = Pipeline()
    query = p.input(Query)
    halves = p.add(Halves(), p.add(Retrieve(), query))
    assert halves._fields == ("first", "rest")
    p.output(best=halves.first, others=p.add(Reverse(), query, halves.rest))
    result = p.run(["a", "bb"])
    assert [r.rows.tolist() for r in result.best] == [[0], [0]]
    assert [r.rows.tolist() for r in result.others] == [[2, 1], [2, 1]]
    assert [p.run(text).others for text in ("a", "bb")] == [*result.others]
    assert [*p.run([]).best] == []
    text = dump(p.plan(), "halves")
    assert "best: halves.first" in text
    assert "inputs: [query, halves.rest]" in text
    name, plan = parse(text, {}, "x.yaml")
    again = Pipeline(name, plan=plan)
    assert again.plan() == p.plan()
    assert again.run("a").others == p.run("a").others
    for wrong, says in (("halves.second", "write halves.first"), ("halves", "gives first, rest"),
                        ("retrieve.first", "write retrieve")):
        with pytest.raises(ConfigError) as caught:
            parse(text.replace("halves.first", wrong), {}, "x.yaml")
        assert says in str(caught.value)


def test_an_output_that_nothing_uses_is_said() -> None:
    p = Pipeline()
    p.output(best=p.add(Halves(), p.add(Retrieve(), p.input(Query))).first)
    assert [(problem.what, problem.fatal) for problem in p.check()] == [("nothing uses its output 'rest'", False)]


def test_a_stage_that_gives_another_bundle_than_it_says_is_named() -> None:
    class Loses(Halves):
        def run(self, rankings: Batch[Ranking]) -> Split:
            return rankings, rankings  # type: ignore[return-value]  # that is the point

    class Short(Halves):
        def run(self, rankings: Batch[Ranking]) -> Split:
            return Split(rankings, Batch())

    for stage, says in ((Loses(), "run gave tuple, and its annotation says Split"),
                        (Short(), "a batch of 0 for a batch of 1")):
        p = Pipeline()
        p.output(best=p.add(stage, p.add(Retrieve(), p.input(Query))).rest)
        with pytest.raises(StageError, match=says):
            p.run("a")


def test_an_empty_batch_runs_nothing_and_opens_nothing(tmp_path: Path) -> None:
    Retrieve.opened_times[0] = 0
    p = retrieving(Retrieve(), "hits", cache=tmp_path)
    held = retrieving(Inside(Retrieve()), "outer")
    assert p.run([]).hits == held.run([]).hits == Batch()
    assert Retrieve.opened_times == [0]
    assert (p.run([]).trace["hits"].queries, held.run([]).trace["outer"].queries) == (0, 0)


class Optional(Stage):
    def run(self, queries: Batch[Query], rankings: Batch[Ranking] | None = None,
            answers: Batch[Answer] | None = None) -> Batch[str]:
        return Batch(f"{rankings is not None} {answers is not None}" for _ in queries)


def test_an_optional_port_in_the_middle_may_be_left_out() -> None:
    p = Pipeline()
    query, answer = p.input(Query), p.input(Answer)
    p.output(said=p.add(Optional(), query, answers=answer))
    assert p.run(Query("a"), Answer("b")).said == "False True"
    assert parse(dump(p.plan(), "x"), {}, "x")[1] == p.plan()
    assert Optional().apply(["a"], answers=[Answer("b")]) == Batch(["False True"])


# -- what was given stays as it is ---------------------------------------------------------------------


def _scores(ranking: Ranking) -> None:
    ranking.scores[0] = 3


def _sorted(ranking: Ranking) -> None:
    ranking.rows.sort()


def _field(ranking: Ranking) -> None:
    ranking.space = "logit"  # type: ignore[misc]  # that is the point


def _evidence(ranking: Ranking) -> None:
    ranking.evidence["mine"] = None  # type: ignore[index]  # that is the point


@pytest.mark.parametrize("change", [_scores, _sorted, _field, _evidence])
def test_a_ranking_cannot_be_changed_by_a_stage(change: Callable[[Ranking], None]) -> None:
    class Changes(Stage):
        def run(self, rankings: Batch[Ranking]) -> Batch[Ranking]:
            for ranking in rankings:
                change(ranking)
            return rankings

    p = Pipeline()
    p.output(hits=p.add(Changes(), p.add(Retrieve(), p.input(Query))))
    with pytest.raises(StageError,
                       match=r"run changed what it was given.*stage 'changes'.*\n  -> other stages read it too"):
        p.run(["a", "b"])


@pytest.mark.parametrize("change", [
    lambda q: q.metadata.update(seen=True), lambda q: q.filters.clear(), lambda q: q.filters["year"].update(gte=5),
    lambda q: setattr(q, "text", "other"),
])
def test_a_query_cannot_be_changed_by_a_stage(change: Callable[[Query], None]) -> None:
    class Changes(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            change(queries[-1])
            return queries

    p = Pipeline()
    p.output(out=p.add(Changes(), p.input(Query)))
    with pytest.raises(StageError, match="run changed what it was given"):
        p.run([Query("a"), Query("b", filters={"year": {"gte": 3}})])


def test_lists_and_batches_cannot_be_changed_by_a_stage_and_copies_may() -> None:
    class Sorts(Stage):
        how: str

        def run(self, words: Batch[list[str]]) -> Batch[list[str]]:
            if self.how == "batch":
                words[0] = []  # type: ignore[index]  # that is the point
            elif self.how == "in place":
                words[0].sort()
            return Batch(sorted(each) for each in words)

    for how in ("batch", "in place"):
        p = Pipeline()
        p.output(out=p.add(Sorts(how), p.input(list[str])))
        with pytest.raises(StageError, match="run changed what it was given"):
            p.run([["b", "a"]])
    p = Pipeline()
    p.output(out=p.add(Sorts("a copy"), p.input(list[str])))
    assert p.run([["b", "a"]]).out == Batch([["a", "b"]])


def test_an_error_of_a_stages_own_stays_what_it_is() -> None:
    class Fails(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Query]:
            raise ValueError("the array is empty")

    p = Pipeline()
    p.output(out=p.add(Fails(), p.input(Query)))
    with pytest.raises(ValueError, match="the array is empty") as caught:
        p.run("a")
    assert not isinstance(caught.value, RegardError)


# -- sugar -----------------------------------------------------------------------------------------------


def test_a_chain_and_a_fusion_are_the_pipelines_that_one_would_build(facts_index: Path) -> None:
    chain = BM25(facts_index) >> Reverse()
    built = Pipeline()
    query = built.input(Query)
    built.output(passages=built.add(Reverse(), query, built.add(BM25(facts_index), query)))
    assert chain.plan() == built.plan()
    assert chain.run("flea eggs").passages == built.run("flea eggs").passages
    fused = Fuse()(BM25(facts_index), Retrieve()) >> Reverse()
    assert list(fused.inputs) == ["query"]
    assert [[ref.node for ref, _ in node.sources] for node in fused.nodes.values()] == [
        ["query"], ["query"], ["bm25", "retrieve"], ["query", "fuse"]]
    same = Retrieve()
    assert list(Fuse()(same, same).nodes) == ["retrieve", "retrieve_2", "fuse"]
    assert list((chain >> Reverse()).nodes) == ["bm25", "reverse", "reverse_2"]
    assert list(chain.nodes) == ["bm25", "reverse"]  # another pipeline was made
    for wrong in (lambda: chain >> Optional, lambda: chain >> 3, lambda: Fuse()(), lambda: Fuse()(3)):
        with pytest.raises(RegardError):
            wrong()
    with pytest.raises(PipelineError, match="nothing before it gives what port 'answers'"):
        _ = chain >> Answered()


class Answered(Stage):
    def run(self, answers: Batch[Answer]) -> Batch[str]:
        return Batch(answer.text for answer in answers)


def test_queries_that_differ_only_in_filters_are_two(tmp_path: Path) -> None:
    p = retrieving(Retrieve(), "r", cache=tmp_path)
    asked = [Query("a"), replace(Query("a"), filters={"x": np.int64(3)}), replace(Query("a"), filters={"x": "3"})]
    p.run(asked)
    assert len([*tmp_path.glob("*/*.json")]) == 3
