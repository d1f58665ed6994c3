"""What holds of every noun: it cannot be changed, has slots, comes back from JSON, refuses garbage, and handing it on
copies nothing."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag import nouns
from regard.rag.errors import ConfigError, EmptyQueryError, MissingDependency, QueryError, StageError
from regard.rag.nouns import (
    Abstention,
    Answer,
    Batch,
    Citation,
    Context,
    Document,
    Evidence,
    Federation,
    Group,
    Hit,
    Media,
    Passage,
    PassageList,
    Query,
    QueryVector,
    Ranking,
    Sentence,
    Space,
    State,
    Step,
    Touch,
    Turn,
    Usage,
    Verdict,
)
from regard.rag.tables import table

TEXT = st.text(max_size=12)
NAME = st.text(min_size=1, max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3))
METADATA = st.dictionaries(NAME, JSON, max_size=3)
SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 1000)
NUMBERS = st.floats(-1e6, 1e6, width=32)

MEDIA = st.builds(Media, NAME, TEXT, TEXT)
DOCUMENTS = st.builds(Document, NAME, TEXT, TEXT, METADATA)
PASSAGES = st.builds(Passage, NAME, NAME, TEXT, COUNTS, COUNTS, TEXT, METADATA, st.lists(MEDIA, max_size=2).map(tuple))
TURNS = st.builds(Turn, st.sampled_from(["user", "assistant"]), TEXT)
QUERIES = st.builds(Query, TEXT.filter(str.strip), NAME, METADATA, METADATA, TEXT,
                    st.lists(TURNS, max_size=2).map(tuple),
                    st.lists(MEDIA, max_size=2).map(tuple), st.none() | NAME)
VECTORS = st.builds(
    QueryVector, QUERIES,
    st.lists(NUMBERS, min_size=1, max_size=4).map(np.float32) | st.integers(1, 3).map(lambda n: np.full((n, 2), n / 3,
                                                                                                        np.float32))
    | st.dictionaries(NAME, NUMBERS, max_size=3), NAME, NAME)
CITATIONS = st.builds(Citation, NAME, NAME, COUNTS, COUNTS, TEXT, SHARES)
SENTENCES = st.builds(Sentence, COUNTS, COUNTS, st.lists(COUNTS, max_size=2).map(tuple), st.none() | SHARES)
CONTEXTS = st.builds(Context, st.lists(PASSAGES, max_size=2).map(tuple),
                     st.lists(st.tuples(COUNTS, COUNTS), max_size=2).map(tuple), COUNTS,
                     COUNTS)
USAGES = st.builds(Usage, COUNTS, COUNTS)
ANSWERS = st.builds(Answer, TEXT, st.lists(CITATIONS, max_size=2).map(tuple), st.none() | CONTEXTS, USAGES,
                    st.lists(SENTENCES, max_size=2).map(tuple), st.none() | NAME,
                    st.none() | st.sampled_from(["stop", "length"]))
VERDICTS = st.builds(Verdict, NAME, st.none() | SHARES, TEXT)
TOUCHES = st.builds(Touch, NAME, COUNTS, NUMBERS, NAME)


def by_stages(rows: Any, store: Any, **scores: Any) -> Ranking:
    """``rows`` in their order, as a first stage left them that gave the first scores, and then others that gave
    theirs."""
    steps = tuple(Step(stage, "bm25", np.arange(1, len(rows) + 1, dtype=np.int32), np.float32(given))
                  for stage, given in scores.items())
    return Ranking(np.array(rows, np.int64), steps[-1].scores, "bm25", store, steps)


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    """Of a list or of a federation, through one stage or two."""
    stores = draw(st.lists(st.lists(PASSAGES, max_size=3).map(PassageList), min_size=1, max_size=3))
    store: Any = Federation(stores) if len(stores) > 1 else stores[0]
    rows = draw(st.permutations([(m << 48) + row for m, part in enumerate(stores) for row in range(len(part))]))
    scores = st.lists(NUMBERS, min_size=len(rows), max_size=len(rows))
    return by_stages(rows, store, first=draw(scores), **({"second": draw(scores)} if draw(st.booleans()) else {}))


PLAIN = st.one_of(DOCUMENTS, PASSAGES, QUERIES, VECTORS, CITATIONS, ANSWERS, VERDICTS, st.builds(Abstention, TEXT),
                  rankings())
STATES = st.builds(State, QUERIES, st.lists(rankings(), max_size=2).map(tuple), COUNTS, st.booleans(), METADATA)
GROUPS = st.lists(PLAIN | STATES | METADATA | st.lists(PLAIN, max_size=2).map(Group), max_size=3).map(Group)

NOUNS: dict[type, st.SearchStrategy[Any]] = {
    Abstention: st.builds(Abstention, TEXT), Answer: ANSWERS, Citation: CITATIONS, Context: CONTEXTS,
    Document: DOCUMENTS, Group: GROUPS,
    Media: MEDIA, Passage: PASSAGES, Query: QUERIES, QueryVector: VECTORS, Ranking: rankings(), State: STATES,
    Touch: TOUCHES, Turn: TURNS,
    Usage: USAGES, Verdict: VERDICTS,
}
PARTS = {Sentence: SENTENCES, Space: st.builds(Space, TEXT), Hit: st.builds(Hit, PASSAGES, NUMBERS, COUNTS),
         Step: rankings().map(lambda ranking: ranking.steps[0])}
"""Nouns that come only inside others: no JSON of their own."""


def again(noun: Any) -> Any:
    return type(noun).from_dict(json.loads(json.dumps(noun.to_dict())))


def test_every_noun_is_here() -> None:
    exported = {value for name in nouns.__all__ if isinstance(value := getattr(nouns, name), type)}
    data = {kind for kind in exported if is_dataclass(kind) or issubclass(kind, tuple)}
    assert data == {*NOUNS, *PARTS, Batch}
    assert {kind for kind in exported if hasattr(kind, "from_dict")} == set(NOUNS)


@pytest.mark.parametrize("kind", NOUNS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_a_noun_comes_back_from_json_as_it_was(kind: type, data: st.DataObject) -> None:
    noun = data.draw(NOUNS[kind])
    assert again(noun) == noun
    assert again(again(noun)).to_dict() == noun.to_dict()


@pytest.mark.parametrize("kind", [*NOUNS, *PARTS], ids=lambda kind: kind.__name__)
@given(st.data())
def test_a_noun_cannot_be_changed_and_has_slots(kind: type, data: st.DataObject) -> None:
    noun = data.draw({**NOUNS, **PARTS}[kind])
    assert not hasattr(noun, "__dict__")
    if isinstance(noun, tuple):
        return
    for field in fields(noun):
        with pytest.raises(FrozenInstanceError):
            setattr(noun, field.name, getattr(noun, field.name))
        held = getattr(noun, field.name)
        assert not isinstance(held, list | set), field.name
        if isinstance(held, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                held[...] = 0
    with pytest.raises((AttributeError, TypeError)):
        noun.another = 1


GARBAGE = [None, 3, "text", [], [1], {}, {"nonsense": 1}, {"text": 3, "id": []}, {"members": 3},
           {"members": [{"noun": "os"}]},
           {"rows": [1], "scores": [], "space": "bm25", "store": {}, "passages": [], "steps": []}]


@pytest.mark.parametrize("kind", NOUNS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("data", GARBAGE, ids=repr)
def test_what_is_no_noun_is_a_config_error(kind: Any, data: Any) -> None:
    if kind is Usage and data == {}:
        return  # all its fields have defaults
    with pytest.raises(ConfigError):
        kind.from_dict(data)


@pytest.mark.parametrize("kind", NOUNS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_json_with_a_part_of_another_type_or_missing_is_a_typed_error_or_a_noun(kind: Any, data: st.DataObject) -> None:
    said = json.loads(json.dumps(data.draw(NOUNS[kind]).to_dict()))
    name = data.draw(st.sampled_from(sorted(said)))
    broken = data.draw(st.sampled_from([None, -1, 2.5, "x", [], {}, [[]], {"x": 1}]))
    for wrong in ({**said, name: broken}, {key: value for key, value in said.items() if key != name}):
        with suppress(ConfigError, EmptyQueryError):
            kind.from_dict(wrong)


@given(rankings())
def test_handing_a_ranking_on_copies_nothing(ranking: Ranking) -> None:
    assert ranking.top(len(ranking) + 1) is ranking
    kept = replace(ranking)
    assert np.shares_memory(kept.rows, ranking.rows) or not len(ranking)
    assert np.shares_memory(kept.scores, ranking.scores) or not len(ranking)
    assert kept.steps is ranking.steps
    assert kept.store is ranking.store


def test_a_ranking_does_not_copy_the_arrays_it_is_made_of_nor_lock_them() -> None:
    rows, scores = np.array([1, 0]), np.array([2, 1], np.float32)
    ranking = Ranking(rows, scores, "bm25", PassageList([]))
    assert np.shares_memory(ranking.rows, rows)
    scores[0] = 3
    assert ranking.scores[0] == 3


def test_json_of_before_the_new_fields_is_still_read_and_is_what_old_values_give() -> None:
    """Stage caches and batch files keep it, and keys are hashes of it."""
    query = {"text": "why", "id": "q", "filters": {}, "metadata": {}}
    passage = {"id": "p", "document_id": "d", "text": "t", "start": 0, "end": 1, "title": "", "metadata": {}}
    for kind, old in ((Query, query), (Passage, passage)):
        assert kind.from_dict(old).to_dict() == old
    store = PassageList([Passage.from_dict(passage)])
    ranking = by_stages([0], store, s=[1.0])
    assert list(ranking.to_dict()) == ["rows", "scores", "space", "store", "passages", "steps"]
    assert ranking.to_dict()["passages"] == [passage]
    context = Context((Passage.from_dict(passage),), ((0, 3),), 3)
    assert list(context.to_dict()["passages"][0]) == list(passage)
    assert list(Answer("a", context=context).to_dict()) == ["text", "citations", "context", "usage", "sentences",
                                                            "verifier", "finish"]


def test_a_derived_query_is_judged_as_the_original() -> None:
    query = Query("who", "q7", {"year": 3}, {"m": 1}, "find", (Turn("user", "hello"),))
    other = query.derive("whose")
    assert other == replace(query, text="whose", origin="q7")
    assert other.derive("whom", id="q7/2").origin == "q7"
    assert query.derive("x", turns=()).turns == ()
    with pytest.raises(ConfigError, match="fields: text, id"):
        query.derive("x", nothing=1)
    with pytest.raises(EmptyQueryError):
        query.derive(" ")


@pytest.mark.parametrize("wrong",
                         [{"turns": "user"}, {"turns": [("user", "hi")]}, {"media": [b"bytes"]}, {"instruction": None},
                                   {"origin": 3}, {"filters": None}, {"id": None}, {"text": 3}], ids=repr)
def test_a_query_of_wrong_parts_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match="a query's"):
        Query(**{"text": "why", **wrong})
    with pytest.raises(QueryError, match="one of user, assistant"):
        Turn("<|system|>", "x")


@pytest.mark.parametrize("value", [3.0, [], [[]], np.zeros((0, 2)), [[[1.0]]], [float("nan")], "text", {"a": "b"},
                                   {1: 2.0}, {"a": float("inf")}], ids=repr)
def test_a_query_vector_of_something_else_is_refused(value: Any) -> None:
    with pytest.raises(StageError):
        QueryVector(Query("why"), value)


def test_query_vectors_are_compared_by_value() -> None:
    query = Query("why")
    dense = QueryVector(query, np.float32([1, 2]), "e", "f")
    assert dense == QueryVector(query, [1.0, 2.0], "e", "f")
    assert [dense.kind, QueryVector(query, [[1.0]]).kind, QueryVector(query, {"a": 1}).kind] == ["dense", "tokens",
                                                                                                 "sparse"]
    others = [replace(dense, value=[1.0, 3.0]), replace(dense, value={"1": 2.0}), replace(dense, encoder="x"),
              replace(dense, fingerprint="x"),
              replace(dense, query=Query("who")), replace(dense, value=[[1.0, 2.0]])]
    assert not any(dense == other for other in others)
    assert dense != "text"


def test_a_score_space_must_be_registered() -> None:
    store = PassageList([Passage("p", "d", "t", 0, 1)])
    with pytest.raises(StageError, match="'hamming' is not registered") as error:
        replace(by_stages([0], store, s=[1.0]), space="hamming")
    assert "weighted-sum" in str(error.value)
    spaces = table("regard.score_spaces")
    spaces.register("hamming", Space("bits that agree"))
    try:
        spaces.register("hamming", Space("bits that agree"))
        assert replace(by_stages([0], store, s=[1.0]), space="hamming").space == "hamming"
    finally:
        spaces.forget("hamming")
    assert all(isinstance(spaces[name], Space) and "\n" not in spaces[name].meaning for name in spaces)


class Reasons:
    """Evidence that can go to JSON: a judge's words by row."""

    def __init__(self, words: dict[int, str]) -> None:
        self.words = words

    def to_dict(self) -> dict[str, Any]:
        return {str(row): word for row, word in self.words.items()}

    @classmethod
    def from_dict(cls, data: dict[str, str]) -> Reasons:
        return cls({int(row): word for row, word in data.items()})


class Fleeting:
    def to_dict(self) -> None:
        return None


def test_evidence_goes_to_json_only_where_it_says_so_and_stays_with_the_hits() -> None:
    store = PassageList([Passage(f"p{i}", "d", "t", 0, 1) for i in range(3)])
    ranking = by_stages([2, 0, 1], store, s=[3, 2, 1])
    rich = ranking.with_evidence(reasons=Reasons({2: "fits"}), other=Fleeting())
    assert all(isinstance(held, Evidence) for held in rich.evidence.values())
    for derived in (rich.top(1), rich[1:], rich.take([2, 0])):
        assert derived.evidence is rich.evidence
    assert ranking.evidence == {}
    assert ranking.with_evidence(other=Fleeting()).to_dict() == ranking.to_dict()
    assert rich.to_dict()["evidence"] == {"reasons": {"2": "fits"}}
    with pytest.raises(ConfigError, match="'reasons'"):
        again(rich)
    table("regard.evidence").register("reasons", Reasons)
    try:
        back = again(rich)
    finally:
        table("regard.evidence").forget("reasons")
    assert back.evidence["reasons"].words == {int(back.rows[0]): "fits"}
    assert set(back.evidence) == {"reasons"}


def test_lists_of_one_content_are_one_store() -> None:
    passages = [Passage("p", "d", "t", 0, 1), Passage("q", "d", "t", 1, 2)]
    assert PassageList(passages).fingerprint == PassageList(copy.deepcopy(passages)).fingerprint
    changed = {PassageList(p).fingerprint for p in (
        passages, passages[::-1], passages[:1], [], *([replace(passages[0], **c), passages[1]] for c in (
            {"text": "u"}, {"title": "x"}, {"metadata": {"a": 1}}, {"media": (Media("image", "u"),)}, {"start": 1})))}
    assert len(changed) == 9
    with pytest.raises(ConfigError, match="no JSON"):
        _ = PassageList([replace(passages[0], metadata={"a": object()})]).fingerprint


def test_answers_print_as_their_text() -> None:
    assert str(Answer("It does.")) == "It does."
    assert str(Abstention("nothing was found")) == "nothing was found"


def test_a_ranking_becomes_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    store = PassageList([Passage(f"p{i}", f"d{i}", f"t{i}", 0, 2, "T") for i in range(3)])
    ranking = by_stages([2, 1], store, bm25=[2, 3], ce=[2, 1])
    frame = ranking.to_pandas()
    assert frame["passage_id"].tolist() == ["p2", "p1"]
    assert frame[["rank", "score", "bm25_rank", "bm25_score", "ce_rank", "ce_score"]].to_numpy().tolist() == [
        [1, 2, 1, 2, 1, 2], [2, 1, 2, 3, 2, 1]]
    assert list(ranking.take([]).to_pandas().columns) == list(frame.columns)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingDependency, match="pip install pandas"):
        ranking.to_pandas()
