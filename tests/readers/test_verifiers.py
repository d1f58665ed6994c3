"""Verifiers by name, the classifier and the language model against the libraries they stand on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from regard.rag import models
from regard.rag.dag.pipeline import Pipeline
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError, ModelNotFound, UnsupportedModel
from regard.rag.lm import LanguageModel
from regard.rag.models.verification import MEASURED, Verifier, described
from regard.rag.nouns import Passage, PassageList, Query, Ranking
from regard.rag.parts import part
from regard.readers import Reader
from regard.readers.verifiers import QUESTION, LMVerifier, NLIVerifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

PREMISES = ["The tower is 330 metres tall.", "Honey never spoils. Bees make it from nectar.", "A."]
HYPOTHESES = ["The tower is tall.", "Honey spoils within a week or so, as all food does.", "B."]


def _tiny(folder: Path, labels: dict[int, str]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(models.resolve("minilm").path)
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64,
                        id2label=labels, label2id={label: i for i, label in labels.items()}, initializer_range=0.5)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _tiny(tmp_path_factory.mktemp("nli"), {0: "contradiction", 1: "ENTAILMENT", 2: "neutral"})


def _softmax(folder: str) -> np.ndarray:
    """float [pairs, labels] by plain transformers, one pair at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return np.stack([model(**tokenizer(p, h, return_tensors="pt")).logits[0].softmax(-1).numpy()
                         for p, h in zip(PREMISES, HYPOTHESES, strict=True)])


def test_a_classifier_gives_the_probability_of_its_own_label_for_entailment(nli: str, tmp_path: Path) -> None:
    expected = _softmax(nli)
    judge = part(Verifier, f"nli:{nli}")
    with Scope() as scope:
        np.testing.assert_allclose(judge.open(scope).entails(PREMISES, HYPOTHESES), expected[:, 1], atol=1e-5)
        assert judge.open(scope).entails([], []).shape == (0,)
    assert not np.allclose(expected[:, 1], expected[:, 0], atol=0.01), "the labels can be told apart"
    config = json.loads(Path(nli, "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(nli).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text(json.dumps({**config, "id2label": {"0": "entailment", "1": "neutral",
                                                                          "2": "contradiction"}}))
    relabelled = part(Verifier, f"nli:{other}")
    with Scope() as scope:
        np.testing.assert_allclose(relabelled.open(scope).entails(PREMISES, HYPOTHESES), expected[:, 0], atol=1e-5)
    assert relabelled.identity() != judge.identity(), "the label order is in the fingerprint"


def test_a_long_text_loses_its_end_and_the_other_stays(nli: str) -> None:
    long = "The tower is tall. " * 400
    with Scope() as scope:
        judge = NLIVerifier(nli).open(scope)
        first, second, same = judge.entails([long, long, long + "More."],
                                            ["It is tall.", "It is old and small.", "It is tall."])
        assert 0 <= judge.entails(["It is tall."], [long])[0] <= 1
    assert first != second
    assert first == pytest.approx(same, abs=1e-6)


def test_a_classifier_without_a_label_for_entailment_is_refused(tmp_path: Path) -> None:
    folder = _tiny(tmp_path, {0: "LABEL_0", 1: "LABEL_1"})
    with Scope() as scope, pytest.raises(UnsupportedModel, match="label_0"):
        part(Verifier, f"nli:{folder}").open(scope)
    with pytest.raises(UnsupportedModel, match="sequence classifier"):
        part(Verifier, "nli:smollm2").identity()
    with pytest.raises(ModelNotFound):
        part(Verifier, "nli:./nowhere").identity()


def test_a_reader_judges_with_the_classifier_it_names_and_saves_it(nli: str, tmp_path: Path) -> None:
    p = Pipeline()
    query, hits = p.input(Query), p.input(Ranking, "hits")
    p.output(answer=p.add(Reader(budget=100, max_new_tokens=8, verifier=f"nli:{nli}"), query, hits, name="read"))
    p.save(tmp_path / "p.yaml")
    loaded = Pipeline.load(tmp_path / "p.yaml").nodes["read"].stage
    assert loaded.verifier == NLIVerifier(nli)
    assert loaded.fingerprint() == p.nodes["read"].stage.fingerprint()
    text = "The Eiffel Tower is 330 metres tall."
    ranking = Ranking.ranked([0], [1.0], "cosine", PassageList([Passage("p", "d", text, 0, len(text))]))
    (answer,) = loaded.apply(["How tall is the Eiffel Tower?"], [ranking])
    assert answer.verifier == f"nli:{nli}"
    assert answer.sentences
    assert all(0 <= s.probability <= 1 for s in answer.sentences)
    assert "not measured" in described(answer.verifier)


def test_a_language_model_is_asked_for_the_likelihood_of_yes() -> None:
    with Scope() as scope:
        judge = LMVerifier("smollm2").open(scope)
        found = judge.entails(PREMISES[:2], HYPOTHESES[:2])
        expected = [_yes(judge.lm, premise, hypothesis)
                    for premise, hypothesis in zip(PREMISES[:2], HYPOTHESES[:2], strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0] != found[1]
    assert LMVerifier("smollm2").identity() == models.weights_hash(models.resolve("smollm2"))


def _yes(lm: LanguageModel, premise: str, hypothesis: str) -> float:
    """P(yes) / (P(yes) + P(no)) by plain transformers, no cache."""
    frame, question = lm.frame(), lm.tokens(QUESTION.format(premise=premise, hypothesis=hypothesis))
    with torch.inference_mode():
        logits = lm._model(input_ids=torch.tensor([[*frame.prefix, *question, *frame.suffix]])).logits[0, -1].float()
    likely = logits.double().exp()
    yes, no = (sum(likely[i].item() for i in {lm.tokens(w)[0] for w in ws})
               for ws in (["yes", "Yes", " yes", " Yes"], ["no", "No", " no", " No"]))
    return yes / (yes + no)


def test_only_known_kinds_have_a_verifier() -> None:
    for name in ("", "magic", "nli:", "lm:", "lexical:x"):
        with pytest.raises(ConfigError):
            part(Verifier, name)
    assert [part(Verifier, name).name
            for name in ("lexical", "nli:a/b", "lm:smollm2")] == ["lexical", "nli:a/b", "lm:smollm2"]


def test_a_verdict_says_how_often_its_verifier_is_wrong() -> None:
    assert "66% of wrong sentences passed it" in described("lexical")
    assert all(0 <= m.false_passes <= m.recall <= 1 and m.statements >= 100 for m in MEASURED.values())
