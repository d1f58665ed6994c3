from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag import Answer, Citation, Context, Document, Passage, PassageList, Query, Ranking, Sentence, Usage
from regard.rag.errors import ConfigError, EmptyQueryError, StageError

STORE = PassageList([Passage(f"p{i}", f"d{i // 2}", f"text {i}", 0, 6, f"title {i}", {"i": i}) for i in range(10)])


def test_flat_nouns_round_trip_through_json() -> None:
    for noun in (Document("d", "text", "title", {"a": 1}), Passage("p", "d", "text", 3, 7),
                 Query("why?", "q1", {"year": {"gte": 3}}),
                 Citation("p", "d", 1, 4, "abc", 0.5), Usage(3, 4)):
        assert type(noun).from_dict(json.loads(json.dumps(noun.to_dict()))) == noun


def test_answer_round_trips_with_its_context_and_sentences() -> None:
    context = Context((STORE.passages([1])[0],), ((5, 9),), 30, 2)
    citation = Citation("p", "d", 0, 4, "text", 0.9)
    sentences = (Sentence(0, 8, (0,), 0.9), Sentence(9, 17, (0,), 0.4), Sentence(18, 21, (), 0.0))
    answer = Answer("It does. Perhaps. No.", (citation,), context, Usage(30, 5), sentences, "lexical", "length")
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    assert answer.truncated
    assert answer.unsupported == ("Perhaps.", "No.")
    assert answer.uncited == ("No.",)


def test_without_a_verifier_nothing_is_unsupported() -> None:
    answer = Answer("It does. Perhaps.", sentences=(Sentence(0, 8), Sentence(9, 17)))
    assert [s.entailed for s in answer.sentences] == [None, None]
    assert answer.unsupported == ()
    assert answer.uncited == ("It does.", "Perhaps.")


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_a_query_without_text_is_refused(text: str) -> None:
    with pytest.raises(EmptyQueryError, match="no text"):
        Query(text, id="q7")


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-100, 100, width=32)), unique_by=lambda pair: pair[0],
                max_size=10))
def test_ranked_sorts_and_rerank_keeps_history(hits: list[tuple[int, float]]) -> None:
    rows, scores = [row for row, _ in hits], [score for _, score in hits]
    first = Ranking.ranked(rows, scores, "bm25", STORE).marked("bm25")
    assert list(first.scores) == sorted((np.float32(s) for s in scores), reverse=True)
    second = first.rescore(-first.scores, "logit").marked("rerank")
    for hit in second:
        before, after = hit.history
        assert (before.stage, after.stage, after.rank) == ("bm25", "rerank", hit.rank)
        assert first[before.rank - 1].passage == hit.passage
        assert before.score == np.float32(scores[rows.index(STORE_ROW[hit.passage.id])])
    again = Ranking.from_dict(json.loads(json.dumps(second.to_dict())))
    assert [h.history for h in again] == [h.history for h in second]
    assert again.passages() == second.passages()


STORE_ROW = {f"p{i}": i for i in range(10)}


def test_a_slice_is_a_ranking_and_less_than_one_hit_is_refused() -> None:
    ranking = Ranking.ranked([5, 2, 7, 1], [4.0, 3.0, 2.0, 1.0], "rrf", STORE).marked("s")
    assert ranking[0:2] == ranking.top(2)
    assert ranking[1:].rows.tolist() == [2, 7, 1]
    assert ranking[-1:].rows.tolist() == [1]
    assert [hit.history[0].rank for hit in ranking[::2]] == [1, 3]
    assert len(ranking[4:]) == len(ranking[:0]) == 0
    assert (ranking[-1].rank, ranking[np.int64(1)].rank) == (4, 2)
    for k in (0, -1):
        with pytest.raises(ConfigError, match=f"k is {k}"):
            ranking.top(k)


def test_equal_scores_keep_their_order() -> None:
    assert list(Ranking.ranked([5, 2, 7], [1.0, 1.0, 1.0], "rrf", STORE).marked("s").rows) == [5, 2, 7]


def test_a_score_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(StageError, match="finite"):
        Ranking.ranked([1, 2], [1.0, float("nan")], "logit", STORE).marked("broken")


def test_handing_on_copies_nothing_and_top_is_a_view_of_few() -> None:
    ranking = Ranking.ranked([1, 2], [2.0, 1.0], "bm25", STORE).marked("s")
    assert ranking.top(5) is ranking
    assert len(ranking.top(1)) == 1
    assert ranking[-1].rank == 2
    with pytest.raises(IndexError):
        _ = ranking[2]
