"""A stage as a value: its settings stay, a pipeline takes a copy, its classes are in its fingerprint, and it can be tried alone."""

from __future__ import annotations

import datetime
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from regard.indexers import LanceStore, build_index
from regard.indexers.stores.lance.writer import StoreWriter, locked
from regard.rag import Answer, Batch, Document, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.dag.config import dump
from regard.rag.errors import ConfigError, StageError
from regard.rag.models.encoding import Encoder, close_encoder, open_encoder
from regard.rag.parts.identity import identity, same_key
from regard.readers import Reader
from regard.rerankers import AttentionReranker, BlockICR, CrossEncoder
from regard.retrievers import BM25, Dense, Fuse, Parents

STORE = PassageList([Passage(f"p{i}", f"d{i}", f"text {i}", 0, 6) for i in range(5)])
RANKING = Ranking.ranked([0, 1, 2], [3, 2, 1], "bm25", STORE, stage="first")


class Shout(Stage):
    def __init__(self, mark: str = "!", twice: bool = False) -> None:
        self.mark = mark
        self.twice = twice
        self.opened: list[str] = []
        self._open = False

    def open(self) -> None:
        self._open = True
        self.opened.append(self.label)

    def close(self) -> None:
        self._open = False

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        if not self._open:
            raise self.not_open()
        return Batch(Query(q.text.upper() + self.mark, q.id) for q in queries)


def shouting(stage: Shout, name: str) -> Pipeline:
    p = Pipeline(name)
    return p.output(out=p.add(stage, p.input(Query), name=name))


# -- one stage object, several pipelines ----------------------------------------------------


def test_a_stage_in_two_pipelines_keeps_its_name_and_stays_open() -> None:
    stage = Shout("?")
    one, two = shouting(stage, "one"), shouting(stage, "two")
    with one, two:
        assert one.run("a").out.text == "A?"
        two.close()
        assert one.run("b").out.text == "B?"
        assert [s.stage for s in (one.trace.stages if one.trace else [])] == ["one"]
    assert stage.name == ""
    assert stage.opened == []
    assert [p.nodes[p.name].stage.opened for p in (one, two)] == [["one"], ["two"]]


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
            return Batch(r.rescore(-r.scores, "logit", stage=self.label) for r in rankings)

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


class Opened:
    """An encoder that says whether it is open."""

    name = "opened"
    dimension = 2

    def __init__(self) -> None:
        self.open_now = 0

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "opened"}

    def open(self) -> None:
        self.open_now += 1

    def close(self) -> None:
        self.open_now -= 1

    def truncated(self, texts: Sequence[str]) -> int:
        return 0

    def encode_passages(self, texts: Sequence[str]) -> Any:
        return np.ones((len(texts), 2), np.float32)

    encode_queries = encode_passages


def test_an_encoder_object_of_two_pipelines_stays_open_until_both_are_closed() -> None:
    class Encode(Stage):
        def __init__(self, encoder: Encoder) -> None:
            self.encoder = encoder

        def open(self) -> None:
            open_encoder(self.encoder)

        def close(self) -> None:
            close_encoder(self.encoder)

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            assert self.encoder.open_now == 1
            return queries

    stage = Encode(Opened())
    one, two = Pipeline(), Pipeline()
    for p in (one, two):
        p.output(out=p.add(stage, p.input(Query)))
        p.open()
    assert one.nodes["encode"].stage.encoder is stage.encoder
    two.close()
    one.run("a")
    one.close()
    assert stage.encoder.open_now == 0


def test_settings_stay_as_they_were_made() -> None:
    class Whisper(Shout):
        def __init__(self, mark: str = "...") -> None:
            super().__init__(mark)
            self.twice = True  # its own constructor may

    for stage in (Shout(), Whisper()):
        with pytest.raises(ConfigError, match=r"mark was set when the stage was made"):
            stage.mark = "?"
        stage.opened = ["free"]
        assert stage.mark in ("!", "...")


def test_a_stage_that_does_not_keep_its_settings_cannot_be_copied() -> None:
    class Forgets(Stage):
        def __init__(self, mark: str) -> None:
            self._mark = mark

        def run(self, queries: Batch[Query]) -> Batch[Query]:
            raise AssertionError

    p = Pipeline()
    with pytest.raises(ConfigError, match="does not keep its settings"):
        p.add(Forgets("!"), p.input(Query))


# -- alone ----------------------------------------------------------------------------------


def test_a_stage_is_tried_alone_on_strings_and_lists(facts_index: Path) -> None:
    with BM25(facts_index) as stage:
        flea, bread = stage.run(["flea", "yeast"])  # type: ignore[arg-type]  # a batch for type checkers
        assert [r[0].passage.document_id for r in (flea, bread)] == ["flea", "bread"]
        assert stage.run((Query("flea"),))[0] == flea
    with pytest.raises(StageError, match="is not open"):  # the block's end closed it
        stage.run(["flea"])
    (parents,) = Parents(k=1).run([flea])
    assert len(parents) == 1
    (fused,) = Fuse().run([flea], [bread])
    assert len(fused) == len(set(flea.rows) | set(bread.rows))
    with CrossEncoder() as reranker:
        (ranked,) = reranker.run(["how many eggs does a flea lay"], [flea])
        assert (ranked,) == reranker.run(queries=["how many eggs does a flea lay"], rankings=[flea])
    assert ranked.space == "logit"


@pytest.mark.parametrize("stage", [BM25, Dense, CrossEncoder, AttentionReranker, Reader])
def test_a_stage_that_is_not_open_says_how_to_open_it(stage: Any, facts_index: Path) -> None:
    made = stage(facts_index) if stage in (BM25, Dense) else stage()
    inputs = (["a"],) if stage in (BM25, Dense) else (["a"], [RANKING])
    with pytest.raises(StageError, match=rf"is not open.*\n  -> with {stage.__name__}\(\.\.\.\) as stage"):
        made.run(*inputs)


def test_what_is_no_batch_is_refused() -> None:
    with Shout() as stage:
        with pytest.raises(StageError, match="queries is a str, not a batch"):
            stage.run("flea")
        with pytest.raises(StageError, match="queries holds a int, not Query"):
            stage.run(["flea", 3])
        with pytest.raises(TypeError):
            stage.run(["flea"], ["flea"])


def test_a_stage_that_fails_to_open_gives_back_what_it_had_opened() -> None:
    class Half(Shout):
        def open(self) -> None:
            super().open()
            raise StageError("no")

    stage = Half()
    with pytest.raises(StageError, match="no"), stage:
        raise AssertionError
    assert not stage._open


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize(("stage", "setting"), [
    (BM25, "k"), (Dense, "k"), (Fuse, "k"), (Parents, "k"), (CrossEncoder, "depth"), (AttentionReranker, "depth"), (Reader, "depth"),
])
def test_less_than_one_is_refused_where_it_is_made(stage: Any, setting: str, k: int) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: Input should be greater than or equal to 1"):
        stage(**{setting: k})


# -- identity -------------------------------------------------------------------------------


class Part(BaseModel):
    weight: float = 1.0


class MyPart(Part): ...


@dataclass(frozen=True)
class Piece:
    parts: tuple[Part, ...] = ()


class Colour(Enum):
    RED = 1


class Holds(Stage):
    def __init__(self, it: Any = None) -> None:
        self.it = it

    def run(self, queries: Batch[Query]) -> Batch[Query]:
        return queries


APART: list[Any] = [
    None, True, 1, 1.0, "1", [1], [[1]], {"1": 1}, {1: 1}, np.int64(1), np.float32(1), np.array([1]), np.array([1.0]), np.zeros(5000),
    np.ones(5000), Part(), MyPart(), Part(weight=2), Piece(), Piece((Part(),)), Piece((MyPart(),)), Colour.RED, {"a"}, frozenset("a"),
    {"a", "b"}, datetime.date(2020, 1, 1), "2020-01-01", Opened(), b"1",
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


@pytest.mark.parametrize("thing", [object(), len, lambda x: x, range(3)])
def test_what_has_no_identity_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match="has no identity"):
        Holds(thing).fingerprint()


class MyBlockICR(BlockICR): ...


def test_a_subclass_of_a_setting_is_itself_in_fingerprints_and_refused_in_files(facts_index: Path) -> None:
    plain, mine = AttentionReranker(policy=BlockICR()), AttentionReranker(policy=MyBlockICR())
    assert type(mine.policy) is MyBlockICR
    assert plain.fingerprint() != mine.fingerprint()
    for reranker, says in ((plain, None), (mine, "a file cannot hold the setting 'policy', a .*MyBlockICR: it would be read back as a")):
        p = Pipeline()
        query = p.input(Query)
        p.output(hits=p.add(reranker, query, p.add(BM25(facts_index), query)))
        if says is None:
            dump(p)
            continue
        with pytest.raises(ConfigError, match=says):
            dump(p)


def test_a_setting_that_is_no_plain_value_and_an_input_without_a_name_are_refused_in_files(facts_index: Path) -> None:
    p = Pipeline()
    p.output(hits=p.add(BM25(facts_index, filters={"year": np.int64(3)}), p.input(Query)))
    with pytest.raises(ConfigError, match="no plain value"):
        dump(p)
    other = Pipeline()
    other.output(hits=other.add(Fuse(), other.input(Ranking)))
    dump(other)
    lists = Pipeline()
    lists.input(list[str])
    lists.output(hits=lists.add(Fuse(), lists.input(Ranking)))
    with pytest.raises(ConfigError, match=r"has type 'list\[str\]'"):
        dump(lists)


# -- the cache follows what was opened ---------------------------------------------------------


def _search(index: Path, cache: Path) -> Pipeline:
    p = Pipeline(cache=cache)
    return p.output(hits=p.add(BM25(index), p.input(Query)))


def _scores(p: Pipeline) -> list[float]:
    return [round(float(score), 4) for score in p.run(Query("flea")).hits.scores]


@pytest.fixture
def two_facts(tmp_path: Path) -> Path:
    documents = [Document("a", "flea flea flea dog"), Document("b", "flea moon and many other words in a long passage about tides")]
    build_index(documents, tmp_path / "i", encoder=None, chunker="whole", views=["bm25"], progress=False)
    return tmp_path / "i"


def _rebuild(index: Path, view: str) -> None:
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


def test_what_was_looked_up_before_a_rebuild_is_not_stored_as_computed_after_it(two_facts: Path, tmp_path: Path) -> None:
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


def test_an_input_that_cannot_be_told_from_others_costs_the_cache_and_not_the_run(two_facts: Path, tmp_path: Path) -> None:
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
