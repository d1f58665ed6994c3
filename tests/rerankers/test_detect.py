"""Head detection: the measures by hand, the file, and a detection that finds what the head sets that ship say."""

import json

import numpy as np
import pytest
from regard.rag.errors import EvaluationError
from regard.rag.evaluation import mean_interval
from regard.rag.lm import describe
from regard.rag.lm.heads import HeadSet, chosen
from regard.rag.nouns import Passage, PassageList, Query, Ranking
from regard.rerankers import CoRe, QRHead
from regard.rerankers.attention.detect import _BOUNDS, _head_set, contrast_of, detect_heads, filtered, ndcg_of

PASSAGES = ["Bread is baked in an oven.", "A flea lives for about a hundred days.", "The Eiffel Tower is in Paris.",
            "The Rhine flows through Basel and Cologne."]
QUERIES = [Query("how long does a flea live", id="flea"), Query("where is the Eiffel Tower", id="tower"),
           Query("nothing", id="none")]
QRELS = {"flea": {"d1": 1}, "tower": {"d2": 2, "d3": 0}}


def rankings() -> list[Ranking]:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text)) for i, text in enumerate(PASSAGES)])
    return [Ranking.ranked(range(4), [4, 3, 2, 1], "bm25", store)] * len(QUERIES)


def test_the_measures_of_a_perfect_a_blind_and_a_contrary_head():
    gains = np.array([0.0, 2.0, 1.0, 0.0])
    scores = np.array([[[0.0, 0.4, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1], [0.4, 0.0, 0.0, 0.3]]])
    best = 2 + 1 / np.log2(3)
    assert ndcg_of(scores, gains)[0].tolist() == pytest.approx([1, (2 / np.log2(3) + 1 / 2) / best,
                                                                (2 / 2 + 1 / np.log2(5)) / best])
    shares = contrast_of(scores, 1, gains == 0, temperature=0.1)  # passage 2 is relevant too, and no negative
    assert shares[0, 0] == pytest.approx(1 / (1 + sum(np.exp((n - 0.4) / 0.1) for n in (0, 0.1))))
    assert shares[0, 1] == pytest.approx(1 / 3)  # the best relevant passage and two others, all alike
    assert shares[0, 2] < 0.02


def test_a_passages_low_tokens_are_left_out_head_by_head():
    tokens = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -5.0, 4.0, 2.0, 3.0],
                       [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 2.0, 3.0]])
    assert filtered(tokens, [7, 1, 2]).tolist() == [[6, 4, 5], [7, 4, 5]]


def test_detection_writes_a_set_that_rerankers_take(tmp_path):
    out = tmp_path / "heads.json"
    found = detect_heads("smollm2", QUERIES, rankings(), QRELS, out, mask="block", depth=4, collection="mine",
                         device="cpu")
    again = HeadSet.load(out)
    assert again.top("ndcg", 5) == found.top("ndcg", 5)
    assert json.loads(out.read_text())["recipe"]["queries"] == 2  # the third has no relevant candidate
    info = describe("smollm2")
    for table in found.measures.values():
        assert np.asarray(table).shape == (info.layers, info.heads)
    low, high = np.moveaxis(np.asarray(found.intervals["ndcg"]), -1, 0)
    mean = np.asarray(found.measures["ndcg"])
    assert (low <= mean + 1e-6).all()
    assert (mean <= high + 1e-6).all()
    assert mean[7, 7] == 1  # the best head of the set that ships, on passages as easy as these
    assert chosen(str(out), "smollm2", "ndcg", 3, "block") == found.top("ndcg", 3)


def test_queries_without_relevant_candidates_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="none of 3 queries"):
        detect_heads("smollm2", QUERIES, rankings(), {"flea": {"elsewhere": 1}}, tmp_path / "heads.json", device="cpu")


@pytest.mark.parametrize("mask", ["block", "causal"])
def test_the_sets_that_ship_are_of_the_embedded_model_and_say_how_they_were_made(mask):
    for measure in ("ndcg", "qrhead_ndcg", "qrhead_score", "core_score") if mask == "causal" else ("ndcg",):
        assert len(chosen("shipped", "smollm2", measure, 8, mask)) == 8
    assert len(QRHead().heads_in("smollm2")) == 16
    assert len(CoRe().heads_in("smollm2")) == 8


def test_each_heads_interval_is_that_of_its_mean_over_the_queries():
    random = np.random.default_rng(0)
    measured = [{measure: random.uniform(0, 1, (2, 3)) for measure in _BOUNDS} for _ in range(12)]
    found = _head_set("smollm2", {}, measured, seed=3)
    for measure, low_high in found.intervals.items():
        for layer, head in np.ndindex(2, 3):
            alone = mean_interval([one[measure][layer, head] for one in measured], resamples=1000, seed=3,
                                  bounds=(-1, 1) if measure == "qrhead_score" else (0, 1))
            assert low_high[layer][head] == pytest.approx(alone, abs=1e-6)
    assert np.asarray(_head_set("smollm2", {}, measured[:1], seed=3).intervals["ndcg"]).tolist() == [[[0, 1]] * 3] * 2
