"""``rerank``: texts in a better order, against the model run by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from regard import CrossEncoder, Document, Passage, Query, rerank
from regard.rag.errors import ConfigError, EmptyQueryError, ModelNotFound, PipelineError
from regard.rag.models import resolve
from regard.rag.models.onnx import OnnxModel
from tokenizers import Tokenizer

QUERY = "how long does a flea live"
TEXTS = ["The Moon orbits the Earth once in 27 days.", "The life cycle of a flea lasts from two weeks to eight months.",
         "Fleas are insects.", "Dough rises because of yeast."]


def _by_hand(pairs: list[tuple[str, str]]) -> list[float]:
    """One pair a run, with onnxruntime and tokenizers alone."""
    folder = resolve("minilm-cross-encoder").path
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    scores = []
    for pair in pairs:
        tokens = tokenizer.encode(*pair)
        columns = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
        given = {i.name: np.array([columns[i.name]], np.int64) for i in session.get_inputs()}
        scores.append(float(session.run(None, given)[0].reshape(-1)[0]))
    return scores


def test_scores_are_the_models_and_rows_are_positions() -> None:
    ranking = rerank(QUERY, TEXTS)
    expected = _by_hand([(QUERY, text) for text in TEXTS])
    assert ranking.rows.tolist() == np.argsort(-np.array(expected)).tolist()
    assert ranking.scores == pytest.approx([expected[row] for row in ranking.rows], abs=1e-3)
    assert ranking.space == "logit"
    assert [p.text for p in ranking.passages()] == [TEXTS[row] for row in ranking.rows]
    assert [p.id for p in ranking.passages()] == [str(row) for row in ranking.rows]


def test_all_forms_of_a_text_and_their_titles() -> None:
    passage = Passage("p", "d", TEXTS[2], 7, 7 + len(TEXTS[2]), "Insects")
    texts = [TEXTS[0], ("pair", TEXTS[1]), passage, Document("doc", TEXTS[3], "Bread", {"n": 1})]
    ranking = rerank(Query(QUERY), iter(texts))
    found = {hit.passage.id: hit for hit in ranking}
    assert found.keys() == {"0", "pair", "p", "doc"}
    assert found["p"].passage == passage
    assert found["doc"].passage == Passage("doc", "doc", TEXTS[3], 0, len(TEXTS[3]), "Bread", {"n": 1})
    expected = _by_hand([(QUERY, f"Insects\n{TEXTS[2]}"), (QUERY, f"Bread\n{TEXTS[3]}")])
    assert [found["p"].score, found["doc"].score] == pytest.approx(expected, abs=1e-3)


def test_many_texts_are_all_ranked_and_k_keeps_the_best() -> None:
    texts = [f"{text} ({i})" for i in range(30) for text in TEXTS]
    ranking = rerank(QUERY, texts)
    assert sorted(ranking.rows.tolist()) == list(range(120))
    assert rerank(QUERY, texts, k=3).rows.tolist() == ranking.rows[:3].tolist()
    assert rerank(QUERY, []).rows.tolist() == []


def test_any_reranker_stage_is_taken() -> None:
    assert rerank(QUERY, TEXTS, CrossEncoder(depth=2)).rows.tolist() == [1, 0]


def test_the_model_stays_loaded_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.rag.app.rerank import _cross_encoder

    _cross_encoder.cache_clear()
    asked: list[str] = []
    real = OnnxModel.acquire.__func__  # type: ignore[attr-defined]  # a class method's function
    counted = classmethod(lambda cls, folder: asked.append(folder) or real(cls, folder))
    monkeypatch.setattr(OnnxModel, "acquire", counted)
    first, second = rerank(QUERY, TEXTS), rerank(QUERY, TEXTS[::-1])
    assert len(asked) == 1
    assert second.rows.tolist() == [len(TEXTS) - 1 - row for row in first.rows]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (("", TEXTS), EmptyQueryError, "no text"),
    ((QUERY, "one text"), ConfigError, "one str"),
    ((QUERY, [*TEXTS, 5]), ConfigError, "5 is no text"),
    ((QUERY, [("a", "b", "c")]), ConfigError, "is no text"),
    ((QUERY, TEXTS, "/no/such/model"), (ModelNotFound, PipelineError), "/no/such/model"),
])
def test_what_cannot_be_is_said(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rerank(*arguments)


def test_a_k_of_none_of_them() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        rerank(QUERY, TEXTS, k=0)
