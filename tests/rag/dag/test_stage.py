"""A stage as a value: its settings stay, pipelines share it, its classes are in its fingerprint, and it can be tried
alone."""

from __future__ import annotations

import copy
import datetime
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from regard.indexers import build_index
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.stores.lance.writer import StoreWriter
from regard.indexers.stores.locks import locked
from regard.rag import Answer, Batch, Document, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.config import dump, parse
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError, StageError
from regard.rag.models.encoding import Encoder, OpenEncoder
from regard.rag.parts import Part
from regard.rag.parts.identity import identity, same_key
from regard.readers import Reader
from regard.rerankers import AttentionReranker, BlockICR, CrossEncoder
from regard.retrievers import BM25, Dense, Fuse, Parents

STORE = PassageList([Passage(f"p{i}", f"d{i}", f"text {i}", 0, 6) for i in range(5)])
RANKING = Ranking.ranked([0, 1, 2], [3, 2, 1], "bm25", STORE).marked("first")


class Shout(Stage):
    """``opened`` and ``closed``: in which scopes, whichever object opened there."""

    opened_in: ClassVar[list[int]] = []
    closed_in: ClassVar[list[int]] = []

    mark: str = "!"
    twice: bool = False

    def open(self, scope: Scope, /) -> set[str]:
        self.opened_in.append(id(scope))
        still_open = {"open"}

        def close() -> None:
            still_open.clear()
            self.closed_in.append(id(scope))

        scope.callback(close)
        return still_open

    def run(self, still_open: set[str], queries: Batch[Query]) -> Batch[Query]:
        assert still_open == {"open"}
        return Batch(Query(q.text.upper() + self.mark, q.id) for q in queries)


@pytest.fixture(autouse=True)
def _nothing_opened() -> None:
    Shout.opened_in.clear()
    Shout.closed_in.clear()


def shouting(stage: Shout, name: str) -> Pipeline:
    p = Pipeline(name)
    return p.output(out=p.add(stage, p.input(Query), name=name))


# -- one stage object, several pipelines ----------------------------------------------------


def test_a_stage_in_two_pipelines_is_called_as_each_calls_it_and_stays_open() -> None:
    stage = Shout("?")
    one, two = shouting(stage, "one"), shouting(stage, "two")
    assert one.nodes["one"].stage is two.nodes["two"].stage is stage
    with one, two:
        assert one.run("a").out.text == "A?"
        two.close()
        result = one.run("b")
        assert result.out.text == "B?"
        assert [entry.stage for entry in result.trace.stages] == ["one"]
        assert len(set(Shout.opened_in)) == len(Shout.opened_in) == 2
        assert Shout.closed_in == Shout.opened_in[1:]
    assert vars(stage) == {"mark": "?", "twice": False}  # nothing of a run stuck to it


def test_the_same_object_twice_in_one_pipeline() -> None:
    p, stage = Pipeline(), Shout()
    p.output(out=p.add(stage, p.add(stage, p.input(Query))))
    assert list(p.nodes) == ["shout", "shout_2"]
    assert p.run("a").out.text == "A!!"


def test_two_pipelines_of_one_retriever_at_once_while_one_closes(facts_index: Path) -> None:
    stage = BM25(facts_index, k=3)
    one, two = Pipeline("one"), Pipeline("two")
    for p in (one, two):
        p.output(hits=p.add(stage, p.input(Query), name=p.name))
    wanted = one.run("yeast sugar").hits.rows.tolist()
    done = threading.Event()

    def search(p: Pipeline) -> list[tuple[str, list[int]]]:
        found = []
        while not done.is_set() or not found:
            hits = p.run("yeast sugar").hits
            found.append((hits.steps[0].stage, hits.rows.tolist()))
        return found

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(search, one) for _ in range(2)]
        for _ in range(20):
            assert two.run("yeast sugar").hits.steps[0].stage == "two"
            two.close()
        done.set()
        assert all(each == ("one", wanted) for future in busy for each in future.result())
    one.close()


def test_a_pipeline_runs_on_after_its_order_sensitivity_was_measured(facts_index: Path, tmp_path: Path) -> None:
    from regard.rag.evaluation.order import pipeline_order_sensitivity

    class Reverse(Stage):
        def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
            return Batch(r.rescore(-r.scores, "logit") for r in rankings)

    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "flea eggs blood water tides"}\n')
    (tmp_path / "qrels.tsv").write_text("q1\tflea\t1\n")
    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Reverse(), query, p.add(BM25(facts_index), query)))
    with p:
        before = p.run("flea eggs blood water tides").hits
        pipeline_order_sensitivity(p, tmp_path / "queries.jsonl", tmp_path / "qrels.tsv")
        after = p.run("flea eggs blood water tides").hits
    assert after == before
    assert [step.stage for step in after.steps] == ["bm25", "reverse"]


class Counted(Encoder):
    """An encoder that counts how often it is open now."""

    open_now: ClassVar[list[int]] = [0]

    name: ClassVar[str] = "counted"
    dimension: int = 2

    def description(self) -> dict[str, Any]:
        return {"kind": "counted", "dimension": self.dimension}

    def open(self, scope: Scope, /) -> OpenEncoder:
        self.open_now[0] += 1
        scope.callback(self._close)
        return OpenEncoder()

    def _close(self) -> None:
        self.open_now[0] -= 1


class Encode(Stage):
    encoder: Encoder

    def open(self, scope: Scope, /) -> OpenEncoder:
        return scope.open(self.encoder)

    def run(self, encoder: OpenEncoder, queries: Batch[Query]) -> Batch[Query]:
        assert isinstance(encoder, OpenEncoder)
        return queries


def test_an_encoder_of_two_pipelines_is_open_until_both_are_closed() -> None:
    encoder = Counted()
    one, two = Pipeline(), Pipeline()
    for p in (one, two):
        first = p.add(Encode(encoder), p.input(Query))
        p.output(out=p.add(Encode(Counted()), first))
        p.open()
    assert encoder.open_now == [2]  # once a pipeline: equal parts open once in its scope
    two.close()
    assert encoder.open_now == [1]
    one.run("a")
    one.close()
    assert encoder.open_now == [0]


def test_a_stage_is_a_value() -> None:
    for stage, wrong in ((Shout(), "mark"), (Counted(), "dimension"), (Shout(), "fresh")):
        with pytest.raises(ConfigError, match=rf"{wrong} cannot be set: a {type(stage).__name__} is a value"):
            setattr(stage, wrong, "?")
    with pytest.raises(ConfigError, match="cannot be deleted"):
        del Shout().mark
    stage = Shout()
    other = stage.replace(mark="?")
    assert (stage.mark, other.mark, other.twice) == ("!", "?", False)
    assert stage == Shout() != other
    assert len({stage, Shout(), other}) == 2
    assert pickle.loads(pickle.dumps(other)) == copy.deepcopy(other) == other
    with pytest.raises(ConfigError, match="mrak: there is no such setting"):
        stage.replace(mrak="?")


def test_what_a_stage_was_given_cannot_be_changed_from_outside() -> None:
    filters, weights = {"year": {"gte": 3}}, [1.0, 2.0]
    bm25, fuse = BM25("i", filters=filters), Fuse(weights=weights)
    filters["year"]["gte"] = 4
    weights.append(3)
    assert (bm25.filters["year"]["gte"], fuse.weights) == (3, (1.0, 2.0))
    with pytest.raises(TypeError, match="does not support item assignment"):
        bm25.filters["year"]["gte"] = 5  # type: ignore[index]  # that is the point
    assert BM25("i").filters is not filters


def test_a_stage_with_a_constructor_of_its_own_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigError,
                       match=r"Forgets has a constructor of its own.*\n  -> declare its settings as fields"):
        class Forgets(Stage):
            def __init__(self, mark: str) -> None:
                pass


def test_only_the_first_setting_may_be_given_by_position() -> None:
    with pytest.raises(ConfigError, match="only the first setting may be given by position"):
        Shout("!", True)  # type: ignore[misc]  # that is the point
    with pytest.raises(ConfigError, match="mark: it was given twice"):
        Shout("!", mark="?")
    with pytest.raises(ConfigError, match="encoder: it must be given"):
        Encode()  # type: ignore[call-arg]  # that is the point
    with pytest.raises(ConfigError, match="cannot have a setting 'inputs'"):
        class Fed(Stage):
            inputs: int = 1


# -- alone ----------------------------------------------------------------------------------


def test_a_stage_is_tried_alone_on_strings_and_lists(facts_index: Path) -> None:
    with BM25(facts_index).opened() as run:
        flea, bread = run(["flea", "yeast"])
        assert [r[0].passage.document_id for r in (flea, bread)] == ["flea", "bread"]
        assert run((Query("flea"),))[0] == flea
    assert flea.steps == ()  # history is a pipeline's
    (parents,) = Parents(k=1).apply([flea])
    assert len(parents) == 1
    (fused,) = Fuse().apply([flea], [bread])
    assert len(fused) == len(set(flea.rows) | set(bread.rows))
    with CrossEncoder().opened() as rerank:
        (ranked,) = rerank(["how many eggs does a flea lay"], [flea])
        assert (ranked,) == rerank(queries=["how many eggs does a flea lay"], rankings=[flea])
    assert ranked.space == "logit"
    assert (ranked,) == CrossEncoder().apply(["how many eggs does a flea lay"], rankings=[flea])


def test_what_is_no_batch_is_refused() -> None:
    with Shout().opened() as run:
        with pytest.raises(StageError, match="queries is a str, not a batch"):
            run("flea")
        with pytest.raises(StageError, match="queries holds a int, not Query"):
            run(["flea", 3])
        for wrong in ((["flea"], ["flea"]), ()):
            with pytest.raises(StageError, match=r"it was given .*\n  -> give \(queries: Query\)"):
                run(*wrong)
        with pytest.raises(StageError, match=r"it was given .*\n  -> give \(queries: Query\)"):
            run(["flea"], questions=["flea"])


def test_a_stage_that_fails_to_open_gives_back_what_it_had_opened() -> None:
    class Half(Shout):
        def open(self, scope: Scope, /) -> set[str]:
            super().open(scope)
            raise StageError("no")

    with pytest.raises(StageError, match="no"):
        Half().apply(["a"])
    assert len(Shout.opened_in) == 1
    assert Shout.closed_in == Shout.opened_in
    p = shouting(Half(), "half")
    with pytest.raises(StageError, match="no"):
        p.run("a")
    p.close()
    assert Shout.closed_in == Shout.opened_in


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize(("stage", "setting"), [
    (BM25, "k"), (Dense, "k"), (Fuse, "k"), (Parents, "k"), (CrossEncoder, "depth"), (AttentionReranker, "depth"),
    (Reader, "depth"),
])
def test_less_than_one_is_refused_where_it_is_made(stage: Any, setting: str, k: int) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: Input should be greater than or equal to 1"):
        stage(**{setting: k})


# -- identity -------------------------------------------------------------------------------


class Model(BaseModel):
    weight: float = 1.0


class MyModel(Model): ...


class Split(Part):
    group = "tests.splits"

    size: int = 1


class MySplit(Split): ...


@dataclass(frozen=True)
class Piece:
    models: tuple[Model, ...] = ()


class Colour(Enum):
    RED = 1


class Holds(Stage):
    it: Any = None

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        return queries


APART: list[Any] = [
    None, True, 1, 1.0, "1", [1], [[1]], {"1": 1}, {1: 1}, np.int64(1), np.float32(1), np.array([1]), np.array([1.0]),
    np.zeros(5000),
    np.ones(5000), Model(), MyModel(), Model(weight=2), Piece(), Piece((Model(),)), Piece((MyModel(),)), Colour.RED,
    frozenset("a"), {"a", "b"}, datetime.date(2020, 1, 1), "2020-01-01", Counted(), Counted(3), Split(), Split(2),
    MySplit(), b"1",
]


def test_what_differs_has_another_identity() -> None:
    made = [Holds(value) for value in APART]
    assert len({stage.fingerprint() for stage in made}) == len(made)
    assert same_key({"a", "b", "c"}) == same_key({"c", "b", "a"})
    assert identity(Path("a/b")) == identity("a/b")  # how a path was written is no matter


PLAIN = st.integers() | st.text(max_size=2) | st.booleans() | st.none()


@given(st.dictionaries(st.text(max_size=3), st.lists(PLAIN, max_size=3), max_size=4))
def test_the_same_values_have_one_key_in_any_order(value: dict[str, Any]) -> None:
    assert same_key(value) == same_key(dict(reversed(value.items())))


def closed_over(n: int) -> Any:
    return lambda x: x + n


@pytest.mark.parametrize("thing", [object(), len, range(3), closed_over(3)])
def test_what_has_no_identity_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match="has no identity"):
        Holds(thing).fingerprint()


class MyBlockICR(BlockICR): ...


class Cuts(Stage):
    split: Split = Split()

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        return queries


class Anything(Stage):
    def run(self, anything: Batch[Any]) -> Batch[Any]:
        return anything


def alone(stage: Stage) -> Pipeline:
    p = Pipeline()
    return p.output(out=p.add(stage, p.input(Query)))


def read_back(p: Pipeline) -> Pipeline:
    name, plan = parse(dump(p.plan(), p.name), {}, "x.yaml")
    return Pipeline(name, plan=plan)


def test_a_subclass_of_a_setting_is_itself_in_fingerprints_and_in_files() -> None:
    policies = AttentionReranker(policy=BlockICR()), AttentionReranker(policy=MyBlockICR())
    assert type(policies[1].policy) is MyBlockICR
    assert policies[0].fingerprint() != policies[1].fingerprint()
    made = [Cuts(Split(2)), Cuts(MySplit(2))]
    assert made[0] != made[1]
    assert made[0].fingerprint() != made[1].fingerprint()
    for stage in made:
        again = read_back(alone(stage)).nodes["cuts"].stage
        assert again == stage
        assert type(again.split) is type(stage.split)  # type: ignore[attr-defined]  # it is Cuts

    class Hidden(Split): ...

    with pytest.raises(ConfigError, match=r"a file cannot name .*Hidden: it was defined inside a function"):
        dump(alone(Cuts(Hidden())).plan(), "x")


def test_a_setting_that_is_no_plain_value_and_an_input_without_a_name_are_refused_in_files(facts_index: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot hold a int64: np.int64\(3\) \[stage 'bm25'\]"):
        dump(alone(BM25(facts_index, filters={"year": np.int64(3)})).plan(), "x")
    for kind in (Ranking, list[str], Query | Answer, dict[str, list[Query]], tuple[int, ...], Any):
        p = Pipeline()
        given = p.input(kind, name="given")
        p.output(out=p.add(Anything(), given))
        assert read_back(p).inputs == {"given": kind}
    p = Pipeline()
    p.input(Colour)
    p.output(out=p.add(Cuts(), p.input(Query)))
    with pytest.raises(ConfigError, match="an input has the type 'Colour'"):
        dump(p.plan(), p.name)


# -- the cache follows what was opened ---------------------------------------------------------


def _search(index: Path, cache: Path) -> Pipeline:
    p = Pipeline(cache=cache)
    return p.output(hits=p.add(BM25(index), p.input(Query)))


def _scores(p: Pipeline) -> list[float]:
    return [round(float(score), 4) for score in p.run(Query("flea")).hits.scores]


@pytest.fixture
def two_facts(tmp_path: Path) -> Path:
    documents = [Document("a", "flea flea flea dog"),
                 Document("b", "flea moon and many other words in a long passage about tides")]
    build_index(documents, tmp_path / "i", encoder=None, chunker="whole", views=["bm25"], progress=False)
    return tmp_path / "i"


def _rebuild(index: Path, view: str) -> None:
    """The index's view in the place of the one it had."""
    shutil.rmtree(index / "views")
    build_index(None, index, views=[view], progress=False)


def test_a_rebuilt_view_is_not_answered_from_the_cache_of_the_old_one(two_facts: Path, tmp_path: Path) -> None:
    before = _scores(_search(two_facts, tmp_path / "cache"))
    _rebuild(two_facts, "bm25,k1=2,b=0.9")
    cached, fresh = _scores(_search(two_facts, tmp_path / "cache")), _scores(_search(two_facts, tmp_path / "new"))
    assert cached == fresh != before


def test_an_open_view_is_not_handed_to_a_pipeline_that_opens_another_build(two_facts: Path, tmp_path: Path) -> None:
    with _search(two_facts, tmp_path / "one") as one:
        before = _scores(one)
        _rebuild(two_facts, "bm25,k1=2,b=0.9")
        with _search(two_facts, tmp_path / "two") as two:
            assert _scores(two) != before
        one.cache = None
        assert _scores(one) == before  # it goes on with what it opened


def test_what_was_looked_up_before_a_rebuild_is_not_stored_as_computed_after_it(two_facts: Path,
                                                                                tmp_path: Path) -> None:
    """A pipeline that answered from the cache has nothing open yet; then the view changes, and it must compute."""
    _search(two_facts, tmp_path / "cache").run([Query("flea"), Query("moon")])
    shutil.copytree(two_facts, tmp_path / "snapshot")
    p = _search(two_facts, tmp_path / "cache")
    assert p.run(Query("flea")).trace["bm25"].cache_hits == 1
    _rebuild(two_facts, "bm25,k1=2,b=0.9")
    p.run(Query("dog"))
    p.close()
    shutil.rmtree(two_facts)
    (tmp_path / "snapshot").rename(two_facts)
    again, fresh = (_search(two_facts, tmp_path / folder).run(Query("dog")).hits for folder in ("cache", "new"))
    assert again.scores.tolist() == fresh.scores.tolist()


def test_what_a_stage_brings_up_to_date_as_it_opens_is_stored_as_that(two_facts: Path, tmp_path: Path) -> None:
    path = two_facts
    with locked(path):  # the store moves on, and its views follow when they are opened
        StoreWriter(path, chunker=LanceStore(path).manifest["chunker"]).delete(["b"])
    p = _search(path, tmp_path / "cache")  # not opened: the run looks first, and opens then
    assert p.run(Query("flea")).trace["bm25"].cache_hits == 0
    p.close()
    assert _search(path, tmp_path / "cache").run(Query("flea")).trace["bm25"].cache_hits == 1


def test_filters_of_different_types_are_different(tmp_path: Path) -> None:
    documents = [Document("number", "flea", metadata={"year": 3}), Document("text", "flea", metadata={"year": "3"})]
    build_index(documents, tmp_path / "i", encoder=None, chunker="whole", views=["bm25"], progress=False)
    queries = [Query("flea", "a", {"year": np.int64(3)}), Query("flea", "b", {"year": "3"})]
    for _ in range(2):  # the second time from the cache
        found = _search(tmp_path / "i", tmp_path / "cache").run(queries).hits
        assert [[p.document_id for p in ranking.passages()] for ranking in found] == [["number"], ["text"]]


def test_an_input_that_cannot_be_told_from_others_costs_the_cache_and_not_the_run(two_facts: Path,
                                                                                  tmp_path: Path) -> None:
    p = _search(two_facts, tmp_path / "cache")
    assert len(p.run(Query("flea", metadata={"from": object()})).hits) == 2
    assert not list((tmp_path / "cache").glob("*/*"))


def test_what_would_come_back_as_something_else_is_not_kept(tmp_path: Path) -> None:
    class Mine(Answer): ...

    class Say(Stage):
        def run(self, queries: Batch[Query]) -> Batch[Answer]:
            return Batch(Mine(q.text) for q in queries)

    p = Pipeline(cache=tmp_path)
    p.output(answer=p.add(Say(), p.input(Query)))
    assert [type(p.run("a").answer) for _ in range(2)] == [Mine, Mine]


def test_run_queries_caches_for_a_pipeline_that_has_run(two_facts: Path, tmp_path: Path) -> None:
    from regard.rag.app.batch import run_queries

    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "flea"}\n{"_id": "2", "text": "moon"}\n')
    p = _search(two_facts, tmp_path / "own")
    p.cache = None
    p.run("x")
    run_queries(p, tmp_path / "queries.jsonl", tmp_path / "out.run", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 2
    assert p.cache is None
    again = _search(two_facts, tmp_path / "cache").run([Query("flea", "1"), Query("moon", "2")])
    assert again.trace["bm25"].cache_hits == 2
    with pytest.raises(ConfigError, match="batch is 0"):
        run_queries(p, tmp_path / "queries.jsonl", tmp_path / "out.run", batch=0)
