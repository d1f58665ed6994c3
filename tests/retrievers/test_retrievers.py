from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers import build_index
from regard.rag import Batch, Document, Passage, PassageList, Pipeline, Query, Ranking, Stage
from regard.rag.app.presets import default_pipeline
from regard.rag.dag.stage import Need
from regard.rag.dag.stores import open_store
from regard.rag.errors import ConfigError, FingerprintMismatch, IndexNotFound, PipelineError, QueryError, StageError
from regard.rag.nouns import Federation, QueryVector
from regard.retrievers import BM25, Dense, Encode, Fuse, Parents, Search

STORE = PassageList([Passage(f"p{i}", f"d{i // 3}", f"t{i}", 0, 2) for i in range(12)])


def _search(stage: Stage) -> Pipeline:
    p = Pipeline()
    return p.output(hits=p.add(stage, p.input(Query)))


def _ids(ranking: Ranking) -> list[str]:
    return [p.document_id for p in ranking.passages()]


def test_dense_finds_meaning_and_bm25_words(facts_index: Path) -> None:
    dense, lexical = _search(Dense(facts_index, k=3)), _search(BM25(facts_index, k=3))
    assert _ids(dense.run("remove a folder and everything in it").hits)[0] == "python"
    assert dense.run("how long do insects on my dog live").hits.space == "cosine"
    assert _ids(lexical.run("yeast").hits) == ["bread"]
    assert len(lexical.run("xylophone").hits) == 0


@pytest.mark.parametrize("make", [BM25, Dense])
def test_filters_of_stage_and_query_both_hold(facts_index: Path, make: Callable[..., Stage]) -> None:
    p = _search(make(facts_index, k=50, filters={"kind": "nature"}))
    queries = [Query("the blood cables surface tree", "a"),
               Query("the blood cables surface tree", "b", filters={"year": {"gte": 2005}})]
    free, bound = p.run(queries).hits
    assert {h.passage.metadata["kind"] for h in [*free, *bound]} == {"nature"}
    assert {h.passage.metadata["year"] for h in free} - {h.passage.metadata["year"] for h in bound}
    assert all(h.passage.metadata["year"] >= 2005 for h in bound)


def test_a_batch_gives_the_rankings_of_single_queries(facts_index: Path, facts: list[Document]) -> None:
    p = Pipeline()
    query = p.input(Query)
    p.output(hits=p.add(Fuse(), p.add(BM25(facts_index), query), p.add(Dense(facts_index), query)))
    queries = [f"what about {d.title}: {d.text[:25]}" for d in facts]
    batch = p.run(queries).hits
    for one, together in zip(queries, batch, strict=True):
        alone = p.run(one).hits
        assert np.array_equal(alone.rows, together.rows)
        assert np.allclose(alone.scores, together.scores, atol=1e-6)


def test_a_query_longer_than_the_window_is_cut_and_counted(facts_index: Path) -> None:
    result = _search(Dense(facts_index, k=2)).run("flea " * 2000)
    assert result.trace["dense"].notes == {"truncated": 1}
    assert _ids(result.hits)[0] == "flea"
    assert len(_search(BM25(facts_index)).run("flea " * 20_000).hits) > 0


def test_a_filter_on_a_field_that_no_passage_has_names_those_there_are(facts_index: Path) -> None:
    fields = "document_id, id, kind, title, year"
    with pytest.raises(QueryError,
                       match=rf"no passage has a field 'yaer'.*\n  -> did you mean 'year'\? fields: {fields}"):
        _search(BM25(facts_index, filters={"yaer": 2003})).run("flea")
    with pytest.raises(QueryError, match="no passage has a field 'where'"):
        _search(Dense(facts_index)).run([Query("flea"), Query("flea", filters={"where": "x", "kind": "nature"})])
    assert len(_search(BM25(facts_index, filters={"year": 1900})).run("flea").hits) == 0
    both = BM25(facts_index, filters={"document_id": "flea", "title": "Fleas"})
    assert _ids(_search(both).run("flea").hits) == ["flea"]


def test_a_field_that_some_passages_have_is_one(tmp_path: Path) -> None:
    documents = [Document("a", "flea", metadata={"by": {"name": "x"}}), Document("b", "flea")]
    build_index(documents, tmp_path, encoder=None, chunker="whole", progress=False)
    assert _ids(_search(BM25(tmp_path, filters={"by": {"eq": {"name": "x"}}})).run("flea").hits) == ["a"]


# -- check ------------------------------------------------------------------------------


def _problems(p: Pipeline) -> str:
    return "\n".join(str(problem) for problem in p.check())


def test_check_names_a_missing_index_view_and_encoder(tmp_path: Path, facts: list[Document], facts_index: Path) -> None:
    assert "there is no index at" in _problems(_search(BM25(tmp_path / "none")))
    assert "no index is named" in _problems(_search(BM25()))
    build_index(facts, tmp_path / "lexical", encoder=None, chunker="whole", progress=False)
    assert "has no dense vectors" in _problems(_search(Dense(tmp_path / "lexical")))
    assert "no view hnsw:encoder=minilm" in _problems(_search(Dense(facts_index, view="faiss:hnsw")))
    assert "no vectors of 'bge-small'; it has minilm" in _problems(_search(Dense(facts_index, encoder="bge-small")))
    with pytest.raises(PipelineError, match="no vectors of 'bge-small'"):
        _search(Dense(facts_index, encoder="bge-small")).run("x")


def test_a_view_of_other_parameters_than_were_asked_for_is_refused(
    tmp_path: Path, facts: list[Document], hash_encoder: Any,
) -> None:
    build_index(facts, tmp_path, encoder=hash_encoder(8), chunker="whole", progress=False, views=["faiss:hnsw,m=8"])
    for view, right in (("faiss:hnsw", True), ("faiss:hnsw,m=8", True), ("faiss:hnsw,m=16", False),
                        ("faiss:hnsw,m=8,ef_search=9", False)):
        stage = Dense(tmp_path, view=view)
        if right:
            stage.fingerprint()
            continue
        with pytest.raises(IndexNotFound, match=r"view is hnsw:8,encoder=hash_encoder, not hnsw:"):
            stage.fingerprint()
        with pytest.raises(IndexNotFound, match="leave the settings out"), stage.opened():
            pass
        assert "the index's view is" in _problems(_search(stage))


def test_check_shows_both_fingerprints_of_another_encoder(
    tmp_path: Path, facts: list[Document], monkeypatch: pytest.MonkeyPatch,
) -> None:
    build_index(facts, tmp_path, encoder="minilm", chunker="whole", progress=False)
    from regard.rag import models

    monkeypatch.setattr(models, "weights_hash", lambda files: "retrained")
    with pytest.raises(FingerprintMismatch) as caught, Dense(tmp_path).opened():
        pass
    assert "'weights': 'retrained'" in str(caught.value)
    assert str(caught.value).count("'weights'") == 2
    assert "made by another encoder" in _problems(_search(Dense(tmp_path)))


def test_a_vector_of_another_encoder_is_not_looked_up(facts_index: Path) -> None:
    vector = QueryVector(Query("a flea"), np.ones(384, np.float32), "mine", "another")
    with pytest.raises(FingerprintMismatch, match="'minilm' were not made by the encoder 'mine'"):
        Search(facts_index).apply([vector])
    for encoder, wrong in (("minilm", 0), ("minilm:normalize=false", 1)):
        p = Pipeline()
        p.output(hits=p.add(Search(facts_index), p.add(Encode(encoder), p.input(Query))))
        found = [problem for problem in p.check() if "were not made by the encoder" in problem.what]
        assert len(found) == wrong
        assert all("(by stage 'encode')" in problem.what and problem.fatal for problem in found)


def test_check_without_faiss_names_both_extras(facts_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "regard[gpu]" in _problems(_search(Dense(facts_index)))


def test_check_refuses_a_text_reranker_over_a_store_without_text(tmp_path: Path, facts: list[Document]) -> None:
    build_index(facts, tmp_path, encoder="minilm", chunker="whole", text=False, progress=False, views=["faiss:flat"])

    class NeedsText(Stage):
        needs = frozenset({Need.TEXT})

        def run(self, rankings: Batch[Ranking]) -> Batch[Ranking]:
            return rankings

    p = Pipeline()
    p.output(hits=p.add(NeedsText(), p.add(Dense(tmp_path), p.input(Query))))
    assert "stores none" in _problems(p)
    assert len(_search(Dense(tmp_path, k=3)).run("flea").hits) == 3


def test_rankings_of_two_indexes_are_fused(tmp_path: Path, facts: list[Document], facts_index: Path) -> None:
    """Each hit has its own index's passage, in one and in a batch, and again from the cache's JSON."""
    others = [Document("flea2", "A flea jumps; the moon is far."), Document("bread2", "yeast yeast")]
    build_index(others, tmp_path / "i", encoder=None, chunker="whole", progress=False)
    p = Pipeline()
    query = p.input(Query)
    first, second = p.add(BM25(facts_index), query, name="a"), p.add(BM25(tmp_path / "i"), query, name="b")
    p.output(a=first, b=second, hits=p.add(Fuse(), first, second))
    assert not _problems(p)
    results = [p.run("flea moon"), p.run("yeast")]
    for result in results:
        scores = {hit.passage.id: 1 / (60 + hit.rank) for ranking in (result.a, result.b) for hit in ranking}
        assert {h.passage.id: h.score for h in result.hits} == pytest.approx(scores, rel=1e-6)
        stages = {h.passage.id: h.history[0].stage for h in result.hits}
        assert stages == {h.passage.id: name for name, ranking in (("a", result.a), ("b", result.b)) for h in ranking}
        assert Ranking.from_dict(json.loads(json.dumps(result.hits.to_dict())), open_store) == result.hits
    assert p.run(["flea moon", "yeast"]).hits == tuple(result.hits for result in results)
    with pytest.raises(ConfigError, match="passages are in 'lance:"):
        Ranking.from_dict(results[0].hits.to_dict())
    build_index([*others, Document("new", "new")], tmp_path / "i", encoder=None, chunker="whole", progress=False)
    with pytest.raises(FingerprintMismatch, match="not what it was"):
        Ranking.from_dict(results[0].hits.to_dict(), open_store)


def test_an_index_without_vectors_gets_a_lexical_default_pipeline(tmp_path: Path, facts: list[Document]) -> None:
    build_index(facts, tmp_path, encoder=None, chunker="whole", progress=False)
    assert _wiring(default_pipeline(tmp_path, answer=False)) == {"bm25": ["query"], "crossencoder": ["query", "bm25"]}


def _wiring(p: Pipeline) -> dict[str, list[str]]:
    return {name: [str(source) for source, _ in node.sources] for name, node in p.nodes.items()}


def test_the_default_pipeline_is_the_one_that_was_measured(facts_index: Path) -> None:
    """What ``tests/benchmarks/bench_default.py`` chose: changing it is a measurement, not an edit."""
    pipeline = default_pipeline(facts_index)
    assert _wiring(pipeline) == {
        "bm25": ["query"], "dense": ["query"], "fuse": ["bm25", "dense"], "crossencoder": ["query", "fuse"],
        "ranked": ["crossencoder", "fuse"], "reader": ["query", "ranked"]}
    settings = {name: node.stage.settings() for name, node in pipeline.nodes.items()}
    assert [settings[name]["k"] for name in ("bm25", "dense", "fuse", "ranked")] == [100] * 4
    assert (settings["fuse"]["method"], settings["fuse"]["weights"]) == ("zscore", None)
    assert (settings["ranked"]["method"], settings["ranked"]["weights"]) == ("zscore", (2.0, 1.0))
    assert (settings["crossencoder"]["model"], settings["crossencoder"]["depth"]) == ("minilm-cross-encoder", 50)


def test_the_default_pipeline_adds_up_what_its_stages_say(facts_index: Path) -> None:
    """Twice the cross-encoder's z-score and once the first stage's; each hit tells every stage that touched it."""
    pipeline = default_pipeline(facts_index, answer=False)
    with pipeline:
        (ranking,) = pipeline.run([Query("how long does a flea live")]).passages
    steps = {step.stage: step for step in ranking.steps}
    assert list(steps)[-3:] == ["fuse", "crossencoder", "ranked"]
    assert {"bm25", "dense"} <= steps.keys()
    assert (steps["fuse"].ranks > 0).all()
    assert (steps["crossencoder"].ranks > 0).all()  # the index has fewer than 50 passages
    z = {name: (scores - scores.mean()) / scores.std() for name in ("fuse", "crossencoder")
         for scores in [steps[name].scores.astype(np.float64)]}
    assert np.allclose(ranking.scores, 2 * z["crossencoder"] + z["fuse"], atol=1e-5)


# -- fusion and parents -----------------------------------------------------------------


def _ranking(rows: list[int], scores: list[float], stage: str) -> Ranking:
    return Ranking.ranked(rows, scores, "bm25", STORE).marked(stage)


def _fuse(fuse: Fuse, *rankings: Ranking) -> Ranking:
    return fuse.run(*(Batch((r,)) for r in rankings))[0]


def test_reciprocal_rank_fusion_by_hand() -> None:
    fused = _fuse(Fuse(), _ranking([1, 2, 3], [9, 8, 7], "a"), _ranking([3, 4], [0.5, 0.1], "b"))
    assert dict(zip(fused.rows.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(
        {3: 1 / 63 + 1 / 61, 1: 1 / 61, 2: 1 / 62, 4: 1 / 62})
    assert fused.rows.tolist() == [3, 1, 2, 4]
    assert [[t.stage for t in h.history] for h in fused] == [["a", "b"], ["a"], ["a"], ["b"]]


def test_weighted_sums_by_hand() -> None:
    a, b = _ranking([1, 2, 3], [10, 5, 0], "a"), _ranking([3, 4], [4, 2], "b")
    assert _fuse(Fuse("minmax", weights=[1, 2]), a, b).scores.tolist() == pytest.approx([2, 1, 0.5, 0])
    assert _fuse(Fuse("minmax", weights=[1, 2]), a, b).rows.tolist() == [3, 1, 2, 4]
    z = 5 / np.std([10, 5, 0])
    fused = _fuse(Fuse("zscore"), a, b)
    expected = {1: z - 1, 2: -1.0, 3: 1 - z, 4: -z - 1}
    assert dict(zip(fused.rows.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


HITS = st.lists(st.tuples(st.integers(0, 11), st.floats(-50, 50, width=32)), unique_by=lambda hit: hit[0], max_size=12)


@given(st.lists(HITS, min_size=1, max_size=4), st.sampled_from(["rrf", "minmax", "zscore"]))
def test_fusion_keeps_every_passage_once_with_its_history(lists: list[list[tuple[int, float]]], method: Any) -> None:
    rankings = [_ranking([r for r, _ in hits], [s for _, s in hits], f"s{i}") for i, hits in enumerate(lists)]
    fused = _fuse(Fuse(method), *rankings)
    assert sorted(fused.rows.tolist()) == sorted({r for hits in lists for r, _ in hits})
    for hit, row in zip(fused, fused.rows, strict=True):
        for touch in hit.history:
            assert rankings[int(touch.stage[1:])].rows[touch.rank - 1] == row


def test_fusion_of_the_same_stage_twice_keeps_one_step() -> None:
    first = _ranking([1, 2, 3], [3, 2, 1], "bm25")
    fused = _fuse(Fuse(), first.rescore([1, 2, 3], "logit").marked("a"), first.top(2))
    assert [s.stage for s in fused.steps] == ["bm25", "a"]
    assert all(h.history[0].stage == "bm25" for h in fused)


def test_a_step_that_did_not_rank_a_hit_in_one_ranking_keeps_its_rank_from_another() -> None:
    """``narrow`` got passage 3 from elsewhere: bm25 did not rank it there, but did in ``wide``, whichever comes
    first."""
    bm25, dense = _ranking([1, 2, 3], [9, 8, 7], "bm25"), _ranking([3, 4], [5, 4], "dense")
    wide, narrow = bm25.rescore([3, 2, 1], "logit").marked("wide"), _fuse(Fuse(), bm25.top(1), dense)
    for rankings in ((wide, narrow), (narrow, wide)):
        fused = _fuse(Fuse(), *rankings)
        ranked = {hit.passage.id: {t.stage: (t.rank, t.score) for t in hit.history if t.stage in ("bm25", "dense")}
                  for hit in fused}
        assert ranked == {"p1": {"bm25": (1, 9.0)}, "p2": {"bm25": (2, 8.0)},
                          "p3": {"bm25": (3, 7.0), "dense": (1, 5.0)},
                          "p4": {"dense": (2, 4.0)}}


def test_a_reranking_of_the_best_fused_with_the_whole_ranking() -> None:
    """What the reranker did not read counts as the least that it read, and has no step of it."""
    first = _ranking([1, 2, 3, 4], [4, 3, 2, -5], "bm25")
    reread = first.top(3).rescore([0, 5, 1], "logit").marked("ce")
    fused = _fuse(Fuse("zscore", weights=[2, 1]), reread, first)
    ce, bm25 = np.array([0, 5, 1, 0]), np.array([4, 3, 2, -5])
    z = 2 * (ce - np.mean([0, 5, 1])) / np.std([0, 5, 1]) + (bm25 - bm25.mean()) / bm25.std()
    assert dict(zip(fused.rows.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(
        dict(zip([1, 2, 3, 4], z, strict=True)), abs=1e-6)
    assert {p.rank: [(t.stage, t.rank) for t in p.history] for p in fused} == {
        1: [("bm25", 2), ("ce", 1)], 2: [("bm25", 3), ("ce", 2)],
        3: [("bm25", 1), ("ce", 3)], 4: [("bm25", 4)]}


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 weights for 1 rankings"):
        _fuse(Fuse(weights=[1, 2]), _ranking([1], [1], "a"))


STORES = [PassageList([Passage(f"{name}{i}", f"{name}{i}", f"{name} {i}", 0, 3) for i in range(6)]) for name in "xyz"]
SOURCED = st.tuples(st.integers(0, 2),
                    st.lists(st.tuples(st.integers(0, 5), st.integers(-20, 20)), unique_by=lambda hit: hit[0]))


@given(st.lists(st.tuples(SOURCED, st.sampled_from([0.5, 1.0, 3.0])), min_size=2, max_size=4),
       st.sampled_from(["rrf", "minmax", "zscore"]),
       st.data())
def test_rankings_of_different_stores_are_fused_as_those_of_one_store_with_all_their_passages(
    sources: list[Any], method: Any, data: st.DataObject,
) -> None:
    """In whatever order the rankings come, and when some of them were fused before."""
    whole = PassageList([passage for store in STORES for passage in store.passages(range(6))])
    weights = [weight for _, weight in sources]
    rankings, expected = [], []
    for i, ((store, hits), _) in enumerate(sources):
        rows, scores = [row for row, _ in hits], [score for _, score in hits]
        rankings.append(Ranking.ranked(rows, scores, "bm25", STORES[store]).marked(f"s{i}"))
        expected.append(Ranking.ranked([6 * store + row for row in rows], scores, "bm25", whole).marked(f"s{i}"))
    fused, oracle = _fuse(Fuse(method, weights=weights), *rankings), _fuse(Fuse(method, weights=weights), *expected)
    assert list(fused) == list(oracle)
    assert fused.store.document_ids(fused.rows) == [hit.passage.document_id for hit in oracle]
    order = data.draw(st.permutations(range(len(rankings))))
    turned = _fuse(Fuse(method, weights=[weights[i] for i in order]), *(rankings[i] for i in order))
    assert {h.passage.id: h.score for h in turned} == pytest.approx({h.passage.id: h.score for h in fused}, abs=1e-5)
    assert turned.store.fingerprint == fused.store.fingerprint
    assert set(turned.rows.tolist()) == set(fused.rows.tolist())
    again = _fuse(Fuse(), fused, rankings[0])
    assert sorted(again.rows.tolist()) == sorted(fused.rows.tolist())
    assert sorted(p.id for p in again.passages()) == sorted(p.id for p in fused.passages())


def test_the_same_passage_of_the_same_store_is_one_hit_and_of_two_stores_two() -> None:
    passages = [Passage("p", "d", "same", 0, 4), Passage("q", "d", "other", 5, 10)]
    one = Ranking.ranked([0], [1], "bm25", PassageList(passages)).marked("a")
    same = Ranking.ranked([0, 1], [2, 1], "bm25", PassageList(list(passages))).marked("b")
    more = Ranking.ranked([0], [1], "bm25", PassageList(passages[:1])).marked("c")
    assert [hit.passage.id for hit in _fuse(Fuse(), one, same)] == ["p", "q"]
    assert [hit.passage.id for hit in _fuse(Fuse(), one, more)] == ["p", "p"]
    parts = [Ranking.from_dict(json.loads(json.dumps(ranking.to_dict()))) for ranking in (one, same.take([1]))]
    assert [hit.passage.id for hit in _fuse(Fuse(), *parts)] == ["p", "q"]  # each of which carries only its own passage


class Stored(PassageList):
    uri = "lance:somewhere"


def test_two_versions_of_one_index_and_rows_that_do_not_fit_are_refused() -> None:
    passages = [Passage("p", "d", "text", 0, 4), Passage("q", "d", "text", 5, 9)]
    old, new = (Ranking.ranked([0], [1], "bm25", Stored(passages[:n])).marked(f"v{n}") for n in (1, 2))
    with pytest.raises(StageError, match="different versions of one index"):
        _fuse(Fuse(), old, new)
    for row in (-1, 2**48):
        with pytest.raises(StageError, match="does not fit"):
            _fuse(Fuse(), old, Ranking.ranked([row], [1], "bm25", STORE).marked("b"))
    fused = _fuse(Fuse(), old, _ranking([3], [1], "b"))
    with pytest.raises(StageError, match="outside the 2 stores"):
        fused.store.passages([2 << 48])


def test_a_federated_row_of_any_size_is_its_members_own() -> None:
    rows = [5, 2**48 - 1, (1 << 48) + 300, (1 << 48) + 2**47]
    split = list(Federation(STORES[:2]).split(rows))
    assert [own.tolist() for _, own, _ in split] == [[5, 2**48 - 1], [300, 2**47]]
    assert [places.tolist() for _, _, places in split] == [[0, 1], [2, 3]]
    assert [store for store, _, _ in split] == STORES[:2]


def test_parents_keeps_each_documents_best_passage() -> None:
    (ranking,) = Parents().run(Batch((_ranking([0, 4, 1, 5, 9], [5, 4, 3, 2, 1], "a"),)))
    assert [(h.passage.id, h.rank, h.score) for h in ranking] == [("p0", 1, 5.0), ("p4", 2, 4.0), ("p9", 3, 1.0)]
    (two,) = Parents(k=2).run(Batch((ranking,)))
    assert len(two) == 2
    with pytest.raises(ConfigError):
        Parents(k=0)


def test_cached_rankings_are_found_again_and_a_changed_index_is_not(tmp_path: Path, facts: list[Document]) -> None:
    def run() -> Any:
        p = Pipeline(cache=tmp_path / "cache")
        query = p.input(Query)
        p.output(hits=p.add(Parents(),
                            p.add(Fuse(), p.add(BM25(tmp_path / "i"), query), p.add(Dense(tmp_path / "i"), query))))
        with_models = p.run(Query("flea moon"))
        p.close()
        return with_models

    build_index(facts, tmp_path / "i", encoder="minilm", chunker="whole", progress=False)
    first, second = run(), run()
    assert [s.cache_hits for s in second.trace.stages] == [1, 1, 1, 1]
    assert second.hits == first.hits
    assert list(second.hits) == list(first.hits)
    build_index([*facts, Document("new", "flea flea moon moon")], tmp_path / "i", progress=False)
    third = run()
    assert [s.cache_hits for s in third.trace.stages] == [0, 0, 0, 0]
    assert "new" in _ids(third.hits)
