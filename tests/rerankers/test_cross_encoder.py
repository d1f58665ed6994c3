"""The cross-encoder on the embedded ONNX model, and on a small random BERT made here for the sentence-transformers
path."""

from __future__ import annotations

import numpy as np
import pytest
from regard.rag import models
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.errors import ConfigError, ModelNotFound, UnsupportedModel
from regard.rag.models.packing import pack
from regard.rag.nouns import Batch, Passage, PassageList, Query, Ranking
from regard.rerankers.cross_encoder import CrossEncoder

TEXTS = [
    "The Eiffel Tower is 330 metres tall.",
    "Recursively delete a directory tree; path must point to a directory.",
    "Bananas are rich in potassium. " * 12,
    "Remove (delete) the directory path. If the directory is not empty, an OSError is raised.",
    "Return the length of an object.",
]
QUESTION = Query("How do I delete a directory tree?", id="delete")
OTHER = Query("How tall is the Eiffel Tower?", id="tower")


def _ranking(texts: list[str], title: str = "") -> Ranking:
    store = PassageList([Passage(f"p{i}", f"d{i}", text, 0, len(text), title) for i, text in enumerate(texts)])
    scores = np.linspace(1.0, 0.1, len(texts), dtype=np.float32)
    return Ranking.ranked(np.arange(len(texts)), scores, "bm25", store).marked("first")


@pytest.fixture(scope="module")
def embedded():
    with CrossEncoder(depth=5).opened() as run:
        yield run


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    """A sentence-transformers-loadable cross-encoder with random weights, large enough to tell pairs apart."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    source = models.resolve("minilm").path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    tokenizer.model_max_length = 64
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64,
                        max_position_embeddings=64, num_labels=1, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_passage_that_answers_comes_first(embedded):
    (first, second) = embedded(Batch([QUESTION, OTHER]), Batch([_ranking(TEXTS), _ranking(TEXTS)]))
    assert first.passages()[0].id == "p1"
    assert second.passages()[0].id == "p0"
    assert first.space == "logit"
    assert [touch.stage for touch in first[0].history] == ["first"]  # the executor adds this one


def test_scores_do_not_depend_on_the_batch(embedded):
    together = embedded(Batch([QUESTION, OTHER]), Batch([_ranking(TEXTS), _ranking(TEXTS[:2])]))
    alone = embedded(Batch([OTHER]), Batch([_ranking(TEXTS[:2])]))
    assert np.array_equal(together[1].scores, alone[0].scores)
    single = {text: embedded(Batch([QUESTION]), Batch([_ranking([text])]))[0].scores[0] for text in TEXTS}
    assert [single[p.text] for p in together[0].passages()] == together[0].scores.tolist()


def test_hits_beyond_the_depth_are_dropped():
    (ranking,) = CrossEncoder(depth=2).apply([QUESTION], [_ranking(TEXTS)])
    assert sorted(p.id for p in ranking.passages()) == ["p0", "p1"]


def test_a_title_is_read(embedded):
    text = "Deletes everything below the given path."
    untitled = embedded(Batch([QUESTION]), Batch([_ranking([text])]))[0]
    titled = embedded(Batch([QUESTION]), Batch([_ranking([text], "shutil.rmtree directory tree")]))[0]
    assert titled.scores[0] > untitled.scores[0]


def test_empty_rankings_stay_empty(embedded):
    empty, full = embedded(Batch([OTHER, QUESTION]), Batch([_ranking([]), _ranking(TEXTS)]))
    assert len(empty) == 0
    assert empty.space == "logit"
    assert len(full) == 5
    assert embedded(Batch(), Batch()) == Batch()


def test_long_passages_are_cut_and_counted(embedded):
    entry = StageTrace("rerank", "CrossEncoder")
    with tracing(Running(entry)):
        embedded(Batch([QUESTION]), Batch([_ranking(["word " * 2000, TEXTS[1]])]))
    assert entry.notes["truncated"] == 1
    assert 512 < entry.tokens_in < 600


def test_sentence_transformers_scores_equal_one_by_one_logits(torch_folder):
    from sentence_transformers import CrossEncoder as Published
    from torch import nn

    texts = [*TEXTS, "fits " * 80]
    stage = CrossEncoder(str(torch_folder), depth=10, max_length=64, batch_tokens=128, device="cpu")
    entry = StageTrace("rerank", "CrossEncoder")
    with tracing(Running(entry)):
        (ranking,) = stage.apply([QUESTION], [_ranking(texts)])
    published = Published(str(torch_folder), device="cpu", max_length=64)
    expected = {t: published.predict([(QUESTION.text, t)], activation_fn=nn.Identity())[0] for t in texts}
    assert np.std(list(expected.values())) > 0.01  # the random model tells the pairs apart
    np.testing.assert_allclose(ranking.scores, [expected[p.text] for p in ranking.passages()], atol=1e-5)
    assert entry.notes["truncated"] == 2  # the bananas and the fits


def test_a_model_with_several_outputs_is_refused(torch_folder, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(torch_folder, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(torch_folder).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="3 outputs"):
        CrossEncoder(str(tmp_path), device="cpu").apply([QUESTION], [_ranking(TEXTS)])


def test_an_encoder_is_refused():
    with CrossEncoder("bge-small").opened() as run, pytest.raises(UnsupportedModel, match="one score each"):
        run([QUESTION], [_ranking(TEXTS)])


def test_problems_are_found_before_loading():
    assert not list(CrossEncoder().check())
    (missing,) = CrossEncoder("./no-such-model").check()
    assert "no model" in missing.what
    (gguf,) = CrossEncoder("smollm2").check()
    assert "GGUF" in gguf.what
    with pytest.raises(ModelNotFound), CrossEncoder("./no-such-model").opened():
        pass
    with pytest.raises(ModelNotFound, match="'no/such-model' cannot be loaded"), CrossEncoder("no/such-model").opened():
        pass
    with pytest.raises(ConfigError, match="depth"):
        CrossEncoder(depth=0)


def test_settings_and_identity_are_plain():
    stage = CrossEncoder()
    assert stage.settings() == {
        "model": "minilm-cross-encoder", "depth": 50, "max_length": 512, "batch_tokens": 4096, "device": None,
    }
    assert stage.identity() == models.weights_hash(models.resolve("minilm-cross-encoder"))


@pytest.mark.parametrize("lengths", [[], [5], [3, 900, 3, 4, 100, 50, 50], [7] * 40])
def test_packing_covers_every_pair_once_within_the_budget(lengths):
    groups = pack(lengths, 128)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or max(lengths[i] for i in g) * len(g) <= 128 for g in groups)
    assert len(groups) <= len(lengths)
    if lengths == [7] * 40:
        assert len(groups) == 3
