from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from regard.rag import Answer, Batch, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.pipeline import RunDone
from regard.rag.dag.scope import Scope
from regard.rag.dag.trace import StageDone, StageStarted, TextDelta, emit_text, record
from regard.rag.errors import ConfigError, EmptyQueryError, PipelineError, PortTypeError, QueryError, StageError

STORE = PassageList([Passage(str(i), str(i), f"passage {i}", 0, 9) for i in range(20)])


class Retrieve(Stage):
    """Scores fall from row ``start`` on. ``runs``: the sizes of the batches that each object was run on, which are not
    in its settings."""

    k: int = 3
    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", [])

    def run(self, queries: Batch[Query]) -> Batch[Ranking]:
        self.runs.append(len(queries))
        rows = range(self.start, self.start + self.k)
        return Batch(Ranking.ranked(rows, [-float(r) for r in rows], "bm25", STORE) for _ in queries)


class Reverse(Stage):
    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        record(tokens_in=7)
        return Batch(r.rescore(-r.scores, "logit") for r in rankings)


class Read(Stage):
    words: int = 3

    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Answer]:
        for word in range(self.words):
            emit_text(0, f"w{word} ")
        return Batch(Answer(f"{q.text}: {len(r)}") for q, r in zip(queries, rankings, strict=True))


class Merge(Stage):
    def run(self, *rankings: Batch[Ranking]) -> Batch[Ranking]:
        return rankings[0]


def _retrieve(p: Pipeline, name: str = "retrieve") -> Retrieve:
    """The very object that was added."""
    stage = p.nodes[name].stage
    assert isinstance(stage, Retrieve)
    return stage


def _reading() -> Pipeline:
    p = Pipeline()
    query = p.input(Query)
    hits = p.add(Reverse(), query, p.add(Retrieve(), query))
    return p.output(passages=hits, answer=p.add(Read(), query, hits))


def test_run_gives_outputs_history_and_trace() -> None:
    result = _reading().run("why")
    assert result.answer.text == "why: 3"
    assert [t.stage for t in result.passages[0].history] == ["retrieve", "reverse"]
    assert [s.stage for s in result.trace.stages] == ["retrieve", "reverse", "read"]
    entry = result.trace["reverse"]
    assert (entry.candidates_in, entry.candidates_out, entry.tokens_in, entry.queries) == (3, 3, 7, 1)
    assert entry.peak_memory > 1_000_000


def test_a_batch_gives_batches_in_order() -> None:
    result = _reading().run(["a", "b", "c"])
    assert [answer.text for answer in result.answer] == ["a: 3", "b: 3", "c: 3"]
    assert _reading().run([]).answer == Batch()


def test_arun_and_stream_give_what_run_gives() -> None:
    p = _reading()
    events = list(p.stream("why"))
    assert [e.stage for e in events if isinstance(e, StageStarted)] == ["retrieve", "reverse", "read"]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "w0 w1 w2 "
    assert [e.stage for e in events if isinstance(e, StageDone)] == ["retrieve", "reverse", "read"]
    assert isinstance(events[-1], RunDone)
    assert events[-1].result.answer == asyncio.run(p.arun("why")).answer == p.run("why").answer

    async def collect() -> list[object]:
        return [event async for event in p.astream("why")]

    assert len(asyncio.run(collect())) == len(events)


def test_closing_a_stream_stops_the_run() -> None:
    p = Pipeline()
    query = p.input(Query)
    p.output(answer=p.add(Read(words=10**9), query, p.add(Retrieve(), query)))
    stream = p.stream("why")
    while not isinstance(next(stream), TextDelta):
        pass
    before = threading.active_count()
    stream.close()  # returns only when the worker has ended
    assert threading.active_count() <= before


def test_independent_branches_run_at_the_same_time() -> None:
    barrier = threading.Barrier(2, timeout=20)

    class Meet(Retrieve):
        def run(self, queries: Batch[Query]) -> Batch[Ranking]:
            barrier.wait()  # breaks unless both branches are inside at once
            return super().run(queries)

    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Merge(), p.add(Meet(), query), p.add(Meet(), query)))
    assert len(p.run("x").hits) == 3


def test_a_failing_branch_names_its_stage_and_waits_for_the_others() -> None:
    finished = threading.Event()

    class Slow(Retrieve):
        def run(self, queries: Batch[Query]) -> Batch[Ranking]:
            time.sleep(0.2)
            finished.set()
            return super().run(queries)

    class Broken(Retrieve):
        def run(self, queries: Batch[Query]) -> Batch[Ranking]:
            raise ZeroDivisionError("boom")

    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Merge(), p.add(Broken(), query), p.add(Slow(), query)))
    with pytest.raises(ZeroDivisionError) as caught:
        p.run("x")
    assert caught.value.__notes__ == ["in stage 'broken' (Broken)"]
    assert finished.is_set()


def test_models_open_once_and_close() -> None:
    calls: list[str] = []

    class Model(Retrieve):
        def open(self, scope: Scope, /) -> str:
            calls.append("open")
            scope.callback(calls.append, "close")
            return "model"

        def run(self, model: str,
                queries: Batch[Query]) -> Batch[Ranking]:  # type: ignore[override]  # it opens something
            assert model == "model"
            return super().run(queries)

    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Model(), query))
    with p:
        p.run("a")
        p.run(["a", "b"])
    assert calls == ["open", "close"]
    p.run("a")
    assert calls == ["open", "close", "open"]


# -- wrong connections are refused where they are made ---------------------------------


def test_types_that_do_not_meet_name_stages_ports_and_types() -> None:
    p = Pipeline("mine")
    query = p.input(Query)
    hits = p.add(Retrieve(), query, name="first")
    with pytest.raises(PortTypeError) as caught:
        p.add(Reverse(), hits, query)
    text = str(caught.value)
    parts = ("'first' (Retrieve)", "'reverse' (Reverse)", "'ranking'", "'queries'", "Batch[Ranking]", "Batch[Query]",
             "port 'rankings'")
    for part in parts:
        assert part in text


def test_missing_and_superfluous_inputs() -> None:
    p = Pipeline()
    query = p.input(Query)
    with pytest.raises(PipelineError, match=r"port 'rankings' of stage 'reverse' \(Reverse\) is not connected"):
        p.add(Reverse(), query)
    with pytest.raises(PipelineError, match="takes 1 inputs, 2 were connected"):
        p.add(Retrieve(), query, query)
    with pytest.raises(PipelineError, match="'rankings' of stage 'merge'"):
        p.add(Merge())


def test_foreign_wires_no_stages_and_taken_names() -> None:
    p, other = Pipeline(), Pipeline()
    query = p.input(Query)
    with pytest.raises(PipelineError, match="no wire of this pipeline"):
        p.add(Retrieve(), other.input(Query))
    with pytest.raises(PipelineError, match="is no stage"):
        p.add(query, Retrieve())  # type: ignore[call-overload]  # that is the point
    p.add(Retrieve(), query, name="a")
    with pytest.raises(PipelineError, match="name of something else"):
        p.add(Retrieve(), query, name="a")
    with pytest.raises(PipelineError, match="input handed back"):
        p.output(x=query)
    with pytest.raises(PipelineError, match="cannot name an output"):
        p.output(trace=p.add(Retrieve(), query))


def test_settings_are_checked_by_their_annotations() -> None:
    with pytest.raises(ConfigError, match=r"wrong: there is no such setting; k: Input should be a valid integer"):
        Retrieve(k="many", wrong=1)  # type: ignore[arg-type, call-arg]  # that is the point
    assert Retrieve(k="4").k == 4  # type: ignore[arg-type]  # what YAML and command lines give


def test_a_stage_without_batch_annotations_is_refused() -> None:
    class Plain(Stage):
        def run(self, query: Query) -> Ranking:
            raise AssertionError

    p = Pipeline()
    with pytest.raises(PipelineError, match="not Batch"):
        p.add(Plain(), p.input(Query))


def test_check_finds_dead_stages_and_missing_outputs() -> None:
    p = Pipeline()
    query = p.input(Query)
    p.add(Retrieve(), query)
    assert {(problem.what, problem.fatal) for problem in p.check()} == {
        ("the pipeline has no output", True), ("nothing uses what it gives", False)}
    with pytest.raises(PipelineError, match="no output"):
        p.run("x")


def test_dead_stages_do_not_run() -> None:
    p = Pipeline()
    query = p.input(Query)
    p.add(Retrieve(), query, name="dead")
    p.output(hits=p.add(Retrieve(), query))
    p.run("x")
    assert _retrieve(p, "dead").runs == []


# -- wrong values ----------------------------------------------------------------------


def test_wrong_inputs_are_refused_before_any_stage_runs() -> None:
    p = _reading()
    with pytest.raises(EmptyQueryError):
        p.run("  ")
    with pytest.raises(EmptyQueryError, match="q2"):
        p.run(["fine", ""])
    with pytest.raises(QueryError, match="takes Query, not int"):
        p.run(3)
    with pytest.raises(PipelineError, match="inputs: query: Query"):
        p.run(other="x")


def test_a_stage_that_returns_the_wrong_number_is_an_error() -> None:
    class Loses(Retrieve):
        def run(self, queries: Batch[Query]) -> Batch[Ranking]:
            return Batch()

    p = Pipeline()
    p.output(hits=p.add(Loses(), p.input(Query)))
    with pytest.raises(StageError, match="batch of 0 for a batch of 1"):
        p.run("x")


# -- the cache -------------------------------------------------------------------------


def _cached(folder: Path, k: int = 3) -> tuple[Pipeline, Retrieve]:
    p = Pipeline(cache=folder)
    p.output(hits=p.add(Retrieve(k), p.input(Query)))
    return p, _retrieve(p)


def test_the_cache_serves_single_queries_out_of_batches(tmp_path: Path) -> None:
    p, stage = _cached(tmp_path)
    first = p.run([Query("a"), Query("b")])
    again = p.run([Query("b"), Query("c"), Query("a")])
    assert stage.runs == [2, 1]
    assert again.trace["retrieve"].cache_hits == 2
    assert list(again.hits[2]) == list(first.hits[0])


def test_the_cache_outlives_the_process_but_not_a_setting(tmp_path: Path) -> None:
    _cached(tmp_path)[0].run(Query("a"))
    same, stage = _cached(tmp_path)
    same.run(Query("a"))
    assert stage.runs == []
    other, stage = _cached(tmp_path, k=4)
    other.run(Query("a"))
    assert stage.runs == [1]


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    _cached(tmp_path)[0].run(Query("a"))
    (entry,) = tmp_path.glob("*/*.json")
    entry.write_text('{"rows": [1')
    p, stage = _cached(tmp_path)
    assert len(p.run(Query("a")).hits) == 3
    assert stage.runs == [1]


def test_a_stage_that_is_not_deterministic_is_never_cached(tmp_path: Path) -> None:
    class Random(Retrieve):
        @property
        def deterministic(self) -> bool:
            return False

    p = Pipeline(cache=tmp_path)
    p.output(hits=p.add(Random(), p.input(Query), name="random"))
    p.run("a")
    p.run("a")
    assert _retrieve(p, "random").runs == [1, 1]


def test_a_cache_that_cannot_be_written_costs_nothing_but_itself(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    p, stage = _cached(blocked)
    assert len(p.run("a").hits) == 3
    assert stage.runs == [1]


def test_different_filters_are_different_inputs(tmp_path: Path) -> None:
    p, stage = _cached(tmp_path)
    p.run(Query("a"))
    p.run(replace(Query("a"), filters={"year": 3}))
    assert stage.runs == [1, 1]
