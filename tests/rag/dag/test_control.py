"""Control: what stages that hold plans give is what their parts give, query by query, in the queries' order: alone,
nested, cached, in threads, out of files."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import pytest
from regard.indexers import build_index
from regard.rag import Batch, Document, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.control import Begin, Cascade, Choose, Each, Hops, Loop
from regard.rag.dag.scope import Scope
from regard.rag.dag.trace import TextDelta, emit_text
from regard.rag.errors import RegardError, StageError
from regard.rag.nouns import Group, State, Verdict
from regard.rag.parts import Count
from regard.rerankers import Margin
from regard.retrievers import BM25, Fuse

STORE = PassageList([Passage(f"p{i}", f"d{i}", f"text {i}", 0, 6) for i in range(12)])
QUERIES = [Query(f"question {'x' * (i % 3)} number {i}", id=f"q{i}") for i in range(64)]


def number(text: str, below: int) -> int:
    """The same one for the same text."""
    return crc32(text.encode()) % below


def scored(text: str, rows: Any) -> list[int]:
    return [number(f"{text} {row}", 10**6) for row in rows]


class Watched(Stage):
    """``calls``: the ids of the queries of each batch; ``opened``: the settings of what was opened."""

    calls: ClassVar[list[list[str]]] = []
    opened_with: ClassVar[list[dict[str, Any]]] = []

    def open(self, scope: Scope, /) -> None:
        self.opened_with.append(self.settings())


class Find(Watched):
    k: Count = 4

    def run(self, opened: None, queries: Batch[Query]) -> Batch[Ranking]:
        self.calls.append([query.id for query in queries])
        return Batch(Ranking.ranked(range(12), scored(query.text, range(12)), "bm25", STORE).top(self.k)
                     for query in queries)


class Judge(Watched):
    """A reranker."""

    price: int = 1

    def run(self, opened: None, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        self.calls.append([query.id for query in queries])
        return Batch(ranking.rescore(scored(f"{query.text} {self.price}", ranking.rows), "logit")
                     for query, ranking in zip(queries, rankings, strict=True))


class Says(Stage):
    """Streams the id of each query, as a reader streams its answer."""

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        for i, query in enumerate(queries):
            emit_text(i, query.id)
        return Batch(query.derive(query.text + " said") for query in queries)


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Watched.calls.clear()
    Watched.opened_with.clear()


# -- what the pipelines are made of -----------------------------------------------------------


def some(query: Query) -> Group[Query]:
    """None, one, two or three of it."""
    return Group(query.derive(f"{query.text}, {j}", id=f"{query.id}.{j}") for j in range(number(query.text, 4)))


def gate(query: Query) -> Verdict:
    return Verdict(("short", "long", "odd")[number(query.text, 3)])


def asked(state: State) -> Query:
    return state.query


def gathered(state: State, ranking: Ranking) -> State:
    """Done by itself for some."""
    query = state.query.derive(state.query.text + " and then")
    return replace(state, query=query, rankings=(*state.rankings, ranking), done=number(query.text, 5) == 0)


def plenty(state: State) -> Verdict:
    return Verdict("done" if state.hop > number(state.query.id, 4) else "go on")


def sure(query: Query, ranking: Ranking) -> Verdict:
    return Verdict("enough" if number(f"{query.text} {ranking.rows[0]}", 2) else "undecided")


def said_and_found(k: int = 4) -> Pipeline:
    p = Pipeline()
    return p.output(found=p.add(Find(k), p.add(Says(), p.input(Query))))


def said_and_judged(price: int) -> Pipeline:
    p = Pipeline()
    query, ranking = p.input(Query), p.input(Ranking)
    return p.output(best=p.add(Judge(price), p.add(Says(), query), ranking))


def hop() -> Pipeline:
    p = Pipeline()
    state = p.input(State)
    return p.output(next=p.add(gathered, state, p.add(Find(), p.add(Says(), p.add(asked, state)))))


def each(name: str = "") -> Pipeline:
    p = Pipeline()
    found = p.add(Each(said_and_found()), p.add(some, p.input(Query)), name=name or "each")
    return p.output(found=p.add(Fuse(), found))


def choose(name: str = "") -> Pipeline:
    p, routes = Pipeline(), {"short": said_and_found(2), "long": said_and_found(5)}
    return p.output(found=p.add(Choose(gate, routes=routes, otherwise="short"), p.input(Query), name=name or "choose"))


def loop(name: str = "") -> Pipeline:
    p = Pipeline()
    looped = p.add(Loop(hop(), most=3, until=plenty), p.add(Begin(), p.input(Query)), name=name or "loop")
    return p.output(found=p.add(Fuse(), p.add(Hops(), looped)))


def cascade(name: str = "") -> Pipeline:
    p = Pipeline()
    query = p.input(Query)
    stages = tuple(map(said_and_judged, (1, 2, 3)))
    return p.output(found=p.add(Cascade(stages, enough=sure), query, p.add(Find(), query), name=name or "cascade"))


def nested(name: str = "") -> Pipeline:
    p = Pipeline()
    body = Choose(gate, routes={"short": loop("inner"), "long": said_and_found(), "odd": each("inner")})
    return p.output(found=p.add(Fuse(), p.add(Each(body), p.add(some, p.input(Query)), name=name or "outer")))


MADE: dict[str, Callable[[str], Pipeline]] = {made.__name__: made for made in (each, choose, loop, cascade, nested)}
every = pytest.mark.parametrize("make", MADE.values(), ids=MADE)


def singles(p: Pipeline) -> list[Ranking]:
    return [p.run(query).found for query in QUERIES]


def deltas(p: Pipeline, queries: list[Query]) -> list[TextDelta]:
    return [event for event in p.stream(queries) if isinstance(event, TextDelta)]


# -- what all have ----------------------------------------------------------------------------


@every
def test_a_batch_gives_what_single_queries_give(make: Any) -> None:
    with make() as p:
        batch = p.run(QUERIES).found
        assert list(batch) == singles(p)
        assert len({tuple(ranking.rows.tolist()) for ranking in batch}) > 32  # or no order could be wrong
        assert list(p.run(QUERIES[::-1]).found) == list(batch)[::-1]


@every
def test_an_empty_batch_opens_and_gives_nothing(make: Any) -> None:
    p = make()
    result = p.run([])
    assert result.found == Batch()
    assert Watched.calls == Watched.opened_with == []
    p.close()


@every
def test_what_is_cached_is_what_is_computed(make: Any, tmp_path: Path) -> None:
    with make() as plain:
        wanted = plain.run(QUERIES).found
    with make() as p:
        p.cache = tmp_path
        assert list(p.run(QUERIES[::2]).found) == list(wanted)[::2]
        result = p.run(QUERIES)  # half of it computed
        assert result.found == wanted
        assert sum(entry.cache_hits for entry in result.trace.stages) > 0
        Watched.calls.clear()
        assert p.run(QUERIES).found == wanted
        assert Watched.calls == []


@every
def test_under_another_name_what_is_kept_has_that_name(make: Any, tmp_path: Path) -> None:
    """Names are in no key, and in every history."""
    with make("other") as plain:
        wanted = plain.run(QUERIES).found
    one, other = make(), make("other")
    one.cache = other.cache = tmp_path
    with one, other:
        assert one.run(QUERIES).found != wanted
        Watched.calls.clear()
        result = other.run(QUERIES)
    assert result.found == wanted
    assert Watched.calls == []
    kept = [entry for entry in result.trace.stages if entry.kind in ("Find", "Judge", "Fuse")]
    assert all(entry.cache_hits == entry.queries for entry in kept)


def halved(ranking: Ranking) -> Group[Ranking]:
    return Group([ranking.take([0, 1]), ranking.take([2, 3])])


def test_rankings_in_a_group_that_is_kept_have_the_names_of_who_gets_them(tmp_path: Path) -> None:
    def pipeline(name: str) -> Pipeline:
        p = Pipeline(cache=tmp_path)
        return p.output(out=p.add(halved, p.add(Find(), p.input(Query), name=name)))

    with pipeline("one") as one, pipeline("other") as other:
        one.run(QUERIES)
        result = other.run(QUERIES)
    assert result.trace["halved"].cache_hits == 64
    assert {step.stage for group in result.out for ranking in group for step in ranking.steps} == {"other"}


def met(query: Query, ranking: Ranking) -> State:
    return State(query, (ranking,))


def apart(ranking: Ranking) -> Group[Ranking]:
    return Group([ranking, ranking.take([0])])


def test_states_groups_and_rankings_of_two_indexes_are_kept_with_their_stores(
    facts_index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    other = tmp_path / "other"
    build_index([Document("flea2", "A flea jumps.")], other, encoder=None, chunker="whole", progress=False)
    p = Pipeline(cache=tmp_path / "cache")
    query = p.input(Query)
    found = p.add(Fuse(), p.add(BM25(facts_index), query), p.add(BM25(other), query))
    p.output(found=found, state=p.add(met, query, found), group=p.add(apart, found))
    with p:
        first, second = (p.run(["flea", "flea moon"]) for _ in range(2))
        assert all(entry.cache_hits == 2 for entry in second.trace.stages)
        assert not [record for record in caplog.records if record.name.startswith("regard")]
        assert (second.found, second.state, second.group) == (first.found, first.state, first.group)
        assert [hit.passage.text for hit in second.state[0].rankings[0]] == [hit.passage.text for hit in first.found[0]]
    build_index([Document("flea2", "A flea jumps high.")], other, encoder=None, chunker="whole", progress=False)
    with p:
        third = p.run(["flea", "flea moon"])
        assert [entry.cache_hits for entry in third.trace.stages if entry.stage != "bm25"] == [0] * 4
        assert "A flea jumps high." in [hit.passage.text for hit in third.group[0][0]]
        assert not [record for record in caplog.records if record.name.startswith("regard")]


@every
def test_a_node_s_name_is_in_no_fingerprint(make: Any) -> None:
    assert make().plan().fingerprint() == make("other").plan().fingerprint()
    assert len({made("").plan().fingerprint() for made in MADE.values()}) == len(MADE)


@every
def test_two_threads(make: Any) -> None:
    with make() as p:
        wanted = list(p.run(QUERIES).found)
        halves = [slice(0, 40), slice(20, 64)]
        start = threading.Barrier(2)

        def run(half: slice) -> list[tuple[bool, list[str]]]:
            start.wait()
            results = [p.run(QUERIES[half]) for _ in range(4)]
            return [(list(r.found) == wanted[half], [e.stage for e in r.trace.stages]) for r in results]

        with ThreadPoolExecutor(2) as pool:
            for half, seen in zip(halves, pool.map(run, halves), strict=True):
                stages = [entry.stage for entry in p.run(QUERIES[half]).trace.stages]
                assert seen == [(True, stages)] * 4


@every
def test_one_stage_object_in_two_pipelines_at_once(make: Any) -> None:
    one, two = make(), make("other")
    stages = one.plan().stages().values()
    nodes = {name: replace(node, stage=stage) for (name, node), stage in zip(two.nodes.items(), stages, strict=True)}
    two = Pipeline(plan=replace(two.plan(), nodes=nodes))
    with one, two:
        first, second = (p.run(QUERIES).found for p in (one, two))
        two.close()
        assert one.run(QUERIES).found == first
    assert [r.rows.tolist() for r in first] == [r.rows.tolist() for r in second]
    names = [{step.stage.split("/")[0] for ranking in found for step in ranking.steps} for found in (first, second)]
    assert "other" in names[1] - names[0]


@every
def test_saved_and_loaded(make: Any, tmp_path: Path) -> None:
    p = make()
    p.save(tmp_path / "p.yaml")
    again = Pipeline.load(tmp_path / "p.yaml")
    assert again.plan().to_plain() == p.plan().to_plain()
    assert again.plan().fingerprint() == p.plan().fingerprint()
    with p, again:
        assert again.run(QUERIES).found == p.run(QUERIES).found


@every
def test_the_body_is_drawn_in_a_frame(make: Any) -> None:
    p = make()
    control = next(name for name, node in p.nodes.items() if isinstance(node.stage, Each | Choose | Loop | Cascade))
    bodies = next(node for node in p.graph().nodes if node.name == control).bodies
    assert len(bodies) == {"each": 1, "choose": 3, "loop": 2, "cascade": 4, "nested": 1}[make.__name__]
    frames, mermaid = 0, p.to_mermaid()
    waiting = list(bodies.items())
    while waiting:
        title, body = waiting.pop()
        frames += 1
        assert title.replace(":", "#58;") in mermaid
        assert title in p.to_svg(), title
        waiting += [item for node in body.nodes for item in node.bodies.items()]
    lines = [line.strip() for line in mermaid.splitlines()]
    assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end") > frames
    assert p.to_svg(p.run(QUERIES[:2]).trace).count("<svg") == 1


@every
def test_streamed_text_is_of_the_run_s_own_query(make: Any, tmp_path: Path) -> None:
    with make() as p:
        events = deltas(p, QUERIES)
        assert len(events) >= 32
        assert all(QUERIES[event.query].id == event.text.split(".")[0] for event in events)
        alone = Counter((event.stage, event.text) for query in QUERIES for event in deltas(p, [query]))
        assert Counter((event.stage, event.text) for event in events) == alone
        p.cache = tmp_path
        p.run(QUERIES[::3])  # of these nothing is said again
        rest = deltas(p, QUERIES)
        assert 0 < len(rest) < len(events)
        assert all(QUERIES[event.query].id == event.text.split(".")[0] for event in rest)


# -- Each -------------------------------------------------------------------------------------


def test_each_gives_a_group_for_a_group() -> None:
    p = Pipeline()
    groups = p.add(some, p.input(Query))
    p.output(asked=groups, found=p.add(Each(Find()), groups))
    result = p.run(QUERIES)
    assert {len(group) for group in result.asked} == {0, 1, 2, 3}
    for members, found in zip(result.asked, result.found, strict=True):
        alone = [ranking.marked("each/find") for ranking in Find().apply(list(members))] if members else []
        assert list(found) == alone
    assert Watched.calls[0] == [member.id for group in result.asked for member in group]  # one batch of all
    p.close()


def test_each_hands_other_inputs_to_all_members() -> None:
    p = Pipeline()
    query = p.input(Query)
    groups = p.add(Each(Find()), p.add(some, query))
    p.output(groups=groups, best=p.add(Each(Judge(), over="ranking"), query, groups))
    with p:
        result = p.run(QUERIES)
    for query, group, best in zip(QUERIES, result.groups, result.best, strict=True):
        assert [b.rows.tolist() for b in best] == [Judge().apply([query], [r])[0].rows.tolist() for r in group]


def test_each_over_groups_without_members_opens_nothing() -> None:
    assert Each(Find()).apply([Group(), Group()]) == Batch([Group(), Group()])
    assert Watched.opened_with == []


# -- Choose -----------------------------------------------------------------------------------


def test_choose_runs_a_query_by_the_route_of_its_verdict_alone() -> None:
    labels = [gate(query).label for query in QUERIES]
    assert set(labels) == {"short", "long", "odd"}
    with choose() as p:
        result = p.run(QUERIES)
    assert [len(ranking) for ranking in result.found] == [5 if label == "long" else 2 for label in labels]
    long = [query.id for query, label in zip(QUERIES, labels, strict=True) if label == "long"]
    assert sorted(Watched.calls) == sorted([long, [query.id for query in QUERIES if query.id not in long]])
    assert {(entry.stage, entry.queries) for entry in result.trace.stages} >= {
        ("choose/gate/gate", 64), ("choose/long/find", len(long)), ("choose/short/find", 64 - len(long))}


def test_a_route_that_no_query_takes_opens_nothing() -> None:
    stage = Choose(gate, routes={"short": Find(2), "long": Find(5), "odd": Find(3)})
    stage.apply([query for query in QUERIES if gate(query).label == "odd"])
    assert Watched.opened_with == [{"k": 3}]


def test_a_label_without_a_route_is_refused() -> None:
    with pytest.raises(StageError, match=r"the gate says 'odd', and there is no such route.*\n  -> routes: short, lo"):
        Choose(gate, routes={"short": Find(2), "long": Find(5)}).apply(QUERIES)


# -- Loop -------------------------------------------------------------------------------------


def by_hand(query: Query, most: int) -> State:
    """The loop for one query, written out."""
    state = State(query)
    for n in range(1, most + 1):
        (ranking,) = Find().apply([state.query])
        state = replace(gathered(state, ranking), hop=n)
        if state.done or plenty(state).label == "done":
            return replace(state, done=True)
    return state


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_loop_repeats_for_those_that_are_not_done(most: int) -> None:
    p = Pipeline()
    state = p.input(State)
    body = p.output(next=p.add(gathered, state, p.add(Find(), p.add(asked, state))))
    states = Loop(body, most=most, until=plenty).apply([State(query) for query in QUERIES])
    batches = list(Watched.calls)
    wanted = [by_hand(query, most) for query in QUERIES]
    assert [(s.query, s.hop, s.done) for s in states] == [(s.query, s.hop, s.done) for s in wanted]
    for state, by in zip(states, wanted, strict=True):
        assert [one.rows.tolist() for one in state.rankings] == [one.rows.tolist() for one in by.rankings]
    assert batches == [[s.query.id for s in wanted if s.hop >= n] for n in range(1, max(s.hop for s in wanted) + 1)]
    assert {s.done for s in states} == ({True, False} if most < 5 else {True})


def test_a_state_that_is_done_before_is_left_as_it_is() -> None:
    states = [State(query, done=i % 2 == 0, hop=7) for i, query in enumerate(QUERIES[:6])]
    after = Loop(hop(), most=2).apply(states)
    assert [a is b for a, b in zip(after, states, strict=True)] == [True, False] * 3
    assert {query for call in Watched.calls for query in call} == {"q1", "q3", "q5"}


def test_a_loop_takes_the_body_at_its_word_though_until_says_otherwise() -> None:
    def over(state: State) -> State:
        return replace(state, done=True)

    def never(state: State) -> Verdict:
        return Verdict("go on")

    (state,) = Loop(over, most=9, until=never).apply([State(QUERIES[0])])
    assert (state.hop, state.done) == (1, True)


# -- Cascade ----------------------------------------------------------------------------------


def test_a_cascade_runs_the_dearer_stage_for_the_undecided_alone() -> None:
    stages = (Judge(1), Judge(2), Judge(3))
    rankings = list(Find().apply(QUERIES))
    Watched.calls.clear()
    found = Cascade(stages, enough=sure).apply(QUERIES, rankings)
    batches = list(Watched.calls)
    wanted, calls = [], Counter[int]()
    for query, ranking in zip(QUERIES, rankings, strict=True):
        for stage in stages:
            calls[stage.price] += 1
            (ranking,) = stage.apply([query], [ranking])
            if sure(query, ranking).label == "enough":
                break
        wanted.append(ranking)
    assert [r.rows.tolist() for r in found] == [r.rows.tolist() for r in wanted]
    assert [len(batch) for batch in batches] == [calls[1], calls[2], calls[3]]
    assert 64 == calls[1] > calls[2] > calls[3] > 0


def test_a_cascade_that_knows_enough_at_once_opens_no_dearer_stage() -> None:
    rankings = list(Find().apply(QUERIES))
    Watched.opened_with.clear()
    Cascade((Judge(1), Judge(2)), enough=Margin(0)).apply(QUERIES, rankings)
    assert Watched.opened_with == [{"price": 1}]


def test_what_a_cascade_asks_is_asked_only_between_stages() -> None:
    times = []

    def never(ranking: Ranking) -> Verdict:
        times.append(len(ranking))
        return Verdict("undecided")

    Cascade((Judge(1), Judge(2)), enough=never).apply(QUERIES[:3], list(Find().apply(QUERIES[:3])))
    assert len(times) == 3


# -- what is within ---------------------------------------------------------------------------


def paths(p: Pipeline, queries: list[Query]) -> Iterator[str]:
    return (entry.stage for entry in p.run(queries).trace.stages)


def test_a_trace_has_what_ran_within_under_its_path() -> None:
    with each() as p:
        assert list(paths(p, QUERIES)) == ["some", "each", "each/says", "each/find", "fuse"]
    with loop() as p:
        assert list(paths(p, QUERIES)) == [
            "begin", "loop", *(f"loop/{n}/{one}" for n in (1, 2, 3)
                               for one in ("asked", "says", "find", "gathered", "until/plenty")), "hops", "fuse"]
    with cascade() as p:
        assert list(paths(p, QUERIES)) == [
            "find", "cascade", "cascade/1/says", "cascade/1/judge", "cascade/1/enough/sure",
            "cascade/2/says", "cascade/2/judge", "cascade/2/enough/sure", "cascade/3/says", "cascade/3/judge"]
    with nested() as p:
        found = set(paths(p, QUERIES))
    assert {"outer/choose/gate/gate", "outer/choose/short/inner/1/find", "outer/choose/odd/inner/find"} <= found


def test_a_history_has_the_stages_within_and_not_those_that_hold_them() -> None:
    with nested() as p:
        stages = {step.stage for ranking in p.run(QUERIES).found for step in ranking.steps}
    assert {"outer/choose/long/find", "outer/choose/short/inner/2/find", "fuse"} <= stages
    assert not {"outer", "outer/choose"} & stages


def test_an_error_within_says_where() -> None:
    def wrong(query: Query) -> Ranking:
        raise StageError("no", where="here")

    p = Pipeline()
    p.output(out=p.add(Each(wrong), p.add(some, p.input(Query))))
    with p, pytest.raises(RegardError) as raised:
        p.run(QUERIES)
    assert raised.value.__notes__ == ["in stage 'each/wrong' (Function)", "in stage 'each' (Each)"]
