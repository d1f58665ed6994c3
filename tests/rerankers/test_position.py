"""Where the query stands: a long candidate moves it away from no other, and takes from the others its softmax share
alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.rag.dag.scope import Scope
from regard.rag.errors import BudgetError
from regard.rag.lm import LanguageModel
from regard.rag.lm.passages import TOKENS_A_WORD, Format, suffix_position
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.rerankers import AttentionReranker, BlockICR
from regard.rerankers.attention.stage import OpenReranker

from ..lms import random_lm

FAMILIES = {"Llama": {}, "Gemma3Text": {"query_pre_attn_scalar": 1, "sliding_window": 700,
                                        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}}
QUERY = Query("how long does a flea live")
WORDS = ["a", "flea", "lives", "about", "one", "hundred", "days", "on", "cats", "dogs", "and", "bread", "is", "baked",
         "in", "a", "tower"]


def ranking_of(texts: list[str]) -> Ranking:
    store = PassageList([Passage(f"p{i}", f"d{i}", t, 0, len(t)) for i, t in enumerate(texts)])
    return Ranking.ranked(np.arange(len(texts)), -np.arange(len(texts), dtype=np.float32), "bm25", store)


class Open(NamedTuple):
    """A stage with what it has opened."""

    stage: AttentionReranker
    held: OpenReranker

    def prompt(self, texts: list[str]):
        return self.stage._lay(self.held, QUERY, ranking_of(texts))(None)


def scores_of(opened: Open, texts: list[str], query: Query = QUERY) -> np.ndarray:
    """In the order of ``texts``."""
    (result,) = opened.stage.run(opened.held, Batch([query]), Batch([ranking_of(texts)]))
    scores = np.empty(len(texts))
    scores[result.rows] = result.scores
    return scores


@contextmanager
def opened(lm: str, max_words: int = 300, **policy) -> Iterator[Open]:
    """Without separators, which take a share and are in no score."""
    stage = AttentionReranker(lm, policy=BlockICR(fusion=None, deviations=None, separator="", **policy),
                              max_words=max_words,
                              device="cpu")
    with Scope() as scope:
        yield Open(stage, stage.open(scope))


@pytest.fixture(scope="module", autouse=True)
def smollm2() -> Iterator[LanguageModel]:
    """Held, so that it is loaded once for all tests."""
    lm = LanguageModel.acquire("smollm2", device="cpu")
    yield lm
    lm.release()


@pytest.fixture(scope="module", params=FAMILIES)
def blind(request, tmp_path_factory, smollm2) -> str:
    """A random model whose layers attend but do not pass on what they read: in all of them, what the query's rows look
    for is the same whatever the passages say. So all that passages can do to each other is to share out a softmax. The
    word ``oven`` has keys of zero: many of them make a long passage that gets a small share, beside which any other
    effect shows."""
    def blinded(model) -> None:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
            model.get_input_embeddings().weight[smollm2.tokens("oven oven")] = 0

    return random_lm(tmp_path_factory.mktemp(request.param), request.param, change=blinded, num_hidden_layers=3,
                     max_position_embeddings=2048, initializer_range=0.4, **FAMILIES[request.param])


@pytest.fixture(scope="module")
def stages(blind) -> Iterator[tuple[Open, Open]]:
    """Calibrated, and not."""
    with opened(blind) as calibrated, opened(blind, calibration=None) as uncalibrated:
        yield calibrated, uncalibrated


passages = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join), min_size=2, max_size=4)
long_passages = st.integers(60, 300).map(lambda n: " ".join(["oven"] * n))


@settings(max_examples=15, deadline=None)
@given(passages, long_passages)
def test_a_long_passage_takes_from_the_others_its_softmax_share_alone(stages, texts, long):
    """A row's attention to another passage shrinks by the row's factor 1 - (its attention to the long one), in (0, 1].
    Hence, for every other i: 0 <= lost_i, and together they lose at most what the long one got; so i stays before j if
    it led by more than that."""
    _, uncalibrated = stages
    alone, beside = scores_of(uncalibrated, texts), scores_of(uncalibrated, [*texts, long])
    lost, share = alone - beside[:-1], beside[-1]
    rounding = 1e-5 * alone.sum()
    assert (lost >= -rounding).all()
    assert lost.sum() <= share + rounding
    ahead = alone[:, None] - alone[None, :] > share + rounding
    assert (beside[:-1, None] > beside[None, :-1])[ahead].all()


def test_calibrated_scores_change_by_what_the_share_explains(stages):
    """Row by row and head by head A' = A (1 - S), S the row's attention to the long passage: the logits are the same
    and the denominator grew. The calibrated scores are the sums of that."""
    stage, texts = stages[0], [" ".join(WORDS[i:i + 9]) for i in range(3)]
    more = [*texts, "oven " * 200]
    wanted = 0.0
    for sign, alone, beside in zip((1, -1), attention_by_row(stage, texts), attention_by_row(stage, more), strict=True):
        share = beside[..., -1:]
        assert share.max() > 0.05
        shrunk = alone * (1 - share)
        np.testing.assert_allclose(beside[..., :-1], shrunk, rtol=2e-4, atol=1e-6)
        wanted += sign * shrunk.mean(axis=0).sum(axis=(0, 1))
    np.testing.assert_allclose(scores_of(stage, more)[:-1], wanted, atol=1e-4)


def attention_by_row(stage: Open, texts: list[str]) -> list[np.ndarray]:
    """Of each suffix, what each of its rows pays each passage: float64 [rows, layers, heads, passages]."""
    model, prompt = stage.held.model, stage.prompt(texts)
    context = model.prefill(prompt.context, blocks=prompt.blocks, mask=prompt.mask, positions=prompt.positions)
    return [np.stack([model.head_scores(context, [suffix], prompt.spans, query_rows=[(row, row + 1)],
                                        after=prompt.after)
                      for row in range(len(suffix))]).astype(np.float64) for suffix in prompt.suffixes]


def test_a_long_passage_hardly_reorders_the_others():
    """The model as it is, which reads what it attends to: behind the longest passage Kendall's tau was .85."""
    texts = [f"{a} {b}." for a in ("A flea lives", "The tower stands", "Bread is baked") for b in
             ("for about a hundred days", "near the river in Paris", "in a very hot oven", "on cats and dogs")]
    with opened("smollm2") as stage:
        alone, beside = (scores_of(stage, some)[:len(texts)] for some in (texts, [*texts, " ".join(WORDS * 15)]))
    assert kendall(alone, beside) > 0.9


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    first, second = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[first] - a[second]) * np.sign(b[first] - b[second])))


@pytest.mark.parametrize(("window", "sliding", "suffix", "position"), [
    (8192, None, 40, "prefix + 900"), (8192, None, 7500, 692), (1000, None, 40, 500), (1000, None, 600, 400),
    (8192, 700, 40, "prefix + 350"), (8192, 4096, 40, "prefix + 900"),
])
def test_the_distance_follows_from_settings_window_and_query(monkeypatch, smollm2, window, sliding, suffix, position):
    monkeypatch.setattr(LanguageModel, "window", window)
    monkeypatch.setattr(LanguageModel, "sliding_window", sliding)
    wanted = position if isinstance(position, int) else len(Format().prefix(smollm2)) + int(position.split()[-1])
    assert suffix_position(smollm2, Format(), [[5] * suffix, [5]]) == wanted


def test_a_passage_longer_than_the_distance_loses_its_end():
    with opened("smollm2", max_words=20, heads="shipped") as stage:
        prompt = stage.prompt(["1234567890" * 40, "a flea"])
    assert prompt.cut == 1
    assert prompt.spans[0][1] - prompt.spans[0][0] == prompt.after - prompt.blocks[0][0] == 20 * TOKENS_A_WORD


def test_a_query_that_leaves_no_room_is_refused():
    with opened("smollm2", heads="shipped") as stage, pytest.raises(BudgetError):
        scores_of(stage, [" ".join(WORDS)], Query("word " * 8140))
