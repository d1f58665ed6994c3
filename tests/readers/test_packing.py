"""Packing and prompts: what fits, what is cut, and where every passage lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag.nouns import Passage
from regard.readers.ending import AnswerGuard, Ended
from regard.readers.packing import BETWEEN, pack, shown
from regard.readers.prompt import build


def _size(text: str) -> int:
    return len(text)


def _passage(name: str, text: str, title: str = "") -> Passage:
    return Passage(name, name, text, 100, 100 + len(text), title)


def test_passages_are_taken_whole_by_rank_until_the_budget_is_full():
    passages = [_passage(n, n * 8) for n in "abcd"]
    packed = pack(passages, 30, _size)
    assert [p.id for p in packed.passages] == ["a", "b", "c"]
    assert packed.dropped == 1


def test_one_that_does_not_fit_is_left_out_and_a_smaller_one_taken():
    packed = pack([_passage("a", "a" * 8), _passage("b", "b" * 25), _passage("c", "c" * 8)], 30, _size)
    assert [p.id for p in packed.passages] == ["a", "c"]
    assert packed.dropped == 1


def test_a_passage_longer_than_the_budget_is_cut_at_a_sentence():
    text = "First sentence. Second sentence. " + "And a very long third one. " * 20
    (cut,) = pack([_passage("a", text)], 40, _size).passages
    assert cut.text == "First sentence. Second sentence."
    assert (cut.start, cut.end) == (100, 100 + len(cut.text))
    later = pack([_passage("a", "a" * 8), _passage("b", text)], 40, _size)
    assert [p.text for p in later.passages] == ["a" * 8, "First sentence."]


def test_a_sentence_longer_than_the_budget_is_cut_at_a_word():
    (cut,) = pack([_passage("a", "word " * 100, "T")], 22, _size).passages
    assert cut.text == "word word word"
    nothing = pack([_passage("a", "x" * 100)], 20, _size)
    assert nothing.passages == ()
    assert nothing.dropped == 1


@given(st.lists(st.text(max_size=80), max_size=6), st.integers(1, 120))
def test_the_budget_holds_for_any_text(texts, budget):
    passages = [_passage(str(i), t, "title" * (i % 2)) for i, t in enumerate(texts)]
    packed = pack(passages, budget, _size)
    assert sum(len(shown(p)) + len(BETWEEN) for p in packed.passages) <= budget
    assert len(packed.passages) + packed.dropped == len(passages)
    for p in packed.passages:
        assert texts[int(p.id)].startswith(p.text)
        assert p.end - p.start == len(p.text)


@pytest.mark.parametrize(("order", "expected"), [("best-last", ["b", "a"]), ("best-first", ["a", "b"])])
def test_the_prompt_knows_where_its_passages_are(order, expected):
    packed = pack([_passage("a", "alpha", "A"), _passage("b", "beta")], 100, _size)
    prompt = build("who {is} it?", packed, order, "Read: {passages}Q: {question}!")
    context = prompt.context([len(p) for p in prompt.pieces], before=7, prompt_tokens=99)
    assert [p.id for p in context.passages] == expected
    whole = "x" * 7 + prompt.text
    assert [whole[a:b] for a, b in context.spans] == [shown(p) for p in context.passages]
    assert prompt.text.startswith("Read: ")
    assert prompt.text.endswith("Q: who {is} it?!")
    assert context.prompt_tokens == 99


def _said(text: str, *, cut: bool = False, step: int = 3) -> str:
    """The guard's text for ``text`` in pieces of ``step`` characters; what it showed must be the same."""
    pieces: list[str] = []
    guard = AnswerGuard(pieces.append)
    try:
        for i in range(0, len(text), step):
            guard(text[i:i + step])
    except Ended:
        assert "".join(pieces) == guard.text
        return guard.text
    guard.finish(cut=cut)
    assert "".join(pieces) == guard.text
    return guard.text


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_an_answer_ends_where_it_begins_to_repeat_itself(step):
    assert _said("Use the rmtree function. " * 9, step=step).strip() == "Use the rmtree function."
    cycle = "Here is number one. There is another. "
    assert _said(cycle + "Here is number one. Wh", step=step) == cycle
    assert _said("Use the rmtree function. Use the rmt", cut=True, step=step).strip() == "Use the rmtree function."


@pytest.mark.parametrize(
    "text", ["", "One.", "Yes. Yes.", "Use the rmtree function. Use the rmdir function.", "It is so. It is so",
             "A\n\nB\n\nA",
             "It is one. It is two. It is one. It"],
)
def test_other_answers_are_untouched(text):
    assert _said(text, step=1) == text
    assert _said(text, step=7) == text


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
def test_an_answer_ends_before_a_stop_string_however_the_pieces_fall(cut: int) -> None:
    text = "One `name`. Two.\n```python\ncode"
    pieces: list[str] = []
    guard = AnswerGuard(pieces.append, ["\n\n", "```"])

    def write() -> None:
        for start in range(0, len(text), cut):
            guard(text[start:start + cut])

    with pytest.raises(Ended):
        write()
    assert guard.text == "".join(pieces) == "One `name`. Two.\n"


def test_what_only_began_like_a_stop_string_is_not_lost() -> None:
    pieces: list[str] = []
    guard = AnswerGuard(pieces.append, ["```"])
    guard("a `b``")
    assert pieces == ["a `b"]
    assert guard.finish(cut=True) == "a `b``"
