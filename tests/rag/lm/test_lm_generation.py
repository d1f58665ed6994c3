"""Decoding: the stream of text, the sampler, the loop's end."""

import pytest
import torch
from regard.rag.errors import ConfigError
from regard.rag.lm import gguf
from regard.rag.lm.generation import Sampler, TextStream, decode
from regard.rag.lm.vocabulary import Vocabulary
from regard.rag.models import resolve
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(AutoTokenizer.from_pretrained(gguf.converted(resolve("smollm2"))), [2])


@pytest.mark.parametrize("text", ["A flea 🦟 in 東京, naïvely…", "", " spaces  kept \n"])
def test_the_pieces_are_whole_characters_and_make_the_text(vocabulary, text):
    pieces: list[str] = []
    stream = TextStream(vocabulary, pieces.append)
    for token in vocabulary.tokens(text):
        stream.add(token)
    assert stream.finish() == text == "".join(pieces)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" not in pieces


def test_half_a_character_at_the_end_is_shown_as_such(vocabulary):
    ids = vocabulary.tokens("ok 🦟")
    pieces: list[str] = []
    stream = TextStream(vocabulary, pieces.append)
    for token in ids[:-1]:
        stream.add(token)
    assert stream.finish() == "".join(pieces) == vocabulary.text(ids[:-1])
    assert stream.text.startswith("ok ")
    assert "\ufffd" in stream.text


class Script:
    """A model that wants to say ``ids`` and then ends its turn."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = [*ids, 2]
        self.asked: list[list[int]] = []

    def __call__(self, ids) -> torch.Tensor:
        logits = torch.zeros(49152)
        logits[self.ids[len(self.asked)]] = 1
        self.asked.append(list(ids))
        return logits


@pytest.mark.parametrize(("limit", "finish", "shown"),
                         [(10, "stop", 3), (4, "stop", 3), (3, "length", 3), (1, "length", 1)])
def test_the_loop_ends_at_the_stop_token_or_the_limit(vocabulary, limit, finish, shown):
    script = Script([300, 301, 302])
    result = decode(script, [5, 6], TextStream(vocabulary, None), sampler=Sampler(0, 1, 0), max_new_tokens=limit,
                    stop={2})
    assert (result.finish, result.ids, result.tokens) == (finish, (300, 301, 302)[:shown], shown)
    assert result.prompt_tokens == 2
    assert result.text == vocabulary.text(result.ids)
    assert script.asked[:2] == [[5, 6], [300]][:len(script.asked)]
    assert len(script.asked) == min(limit, 4)  # no forward pass whose logits nobody reads


def test_sampling_draws_from_the_nucleus_in_proportion():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = Sampler(1.0, 0.75, seed=1)
    drawn = torch.bincount(torch.tensor([sampler(logits) for _ in range(4000)]), minlength=4) / 4000
    torch.testing.assert_close(drawn, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.03, rtol=0)


def test_temperature_flattens():
    logits = torch.tensor([2.0, 0.0])
    sampler = Sampler(2.0, 1.0, seed=1)
    drawn = sum(sampler(logits) for _ in range(4000)) / 4000
    assert drawn == pytest.approx(float(torch.sigmoid(torch.tensor(-1.0))), abs=0.03)


def test_a_seed_decides_and_the_global_generator_is_left_alone():
    logits = torch.zeros(1000)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first, second, other = ([Sampler(1.0, 1.0, seed)(logits) for _ in range(1)] for seed in (7, 7, 8))
    assert first == second != other
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("temperature", "top_p"), [(-1, 1), (1, 0), (1, 1.5)])
def test_settings_out_of_range(temperature, top_p):
    with pytest.raises(ConfigError, match="cannot be sampled"):
        Sampler(temperature, top_p, 0)
