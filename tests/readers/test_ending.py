"""Repeated sentences are one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.rag.text import sentence_spans
from regard.readers.ending import without_repeats


@pytest.mark.parametrize(("text", "left"), [
    ("It is 330 m tall. Yes. It is 330 m tall.", "It is 330 m tall. Yes."),
    ("Yes. Yes. Yes.", "Yes."),
    ("Yes. It is tall. Yes.", "Yes. It is tall. Yes."),
    ("1. The tower is tall.\n2. The tower  is Tall.\n3. It is old.", "1. The tower is tall.\n3. It is old."),
    ("The same five words here.\n\nThe same five words here.\n\nThen others.",
     "The same five words here.\n\nThen others."),
    ("Look: it is very tall. See:\n\n```\nit is very tall. it is very tall.\n```", None),
    ("See:\n\n```\nx = a + b\n\nprint(x) # to see it\n\nprint(x) # to see it\n\n```\n\nThat is all.", None),
    ("", ""),
])
def test_a_sentence_stands_once(text: str, left: str | None) -> None:
    assert without_repeats(text) == (text if left is None else left)


@given(st.lists(st.sampled_from(["It is a tall tower.", "Yes.", "The sea is very blue today."]), max_size=8))
def test_no_long_sentence_is_left_twice_and_none_is_lost(sentences: list[str]) -> None:
    left = without_repeats(" ".join(sentences))
    found = [left[a:b] for a, b in sentence_spans(left)]
    assert set(found) == set(sentences)
    longs = [s for s in found if s != "Yes."]
    assert len(longs) == len(set(longs))
    assert without_repeats(left) == left or "Yes. Yes." in left
