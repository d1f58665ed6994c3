"""The lexical verifier's rules, one by one: what they catch, and what they must let pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regard.readers.lexical import LexicalVerifier, lacking, names, quantities


@pytest.mark.parametrize(("text", "values"), [
    ("1,000 and 1000 and one thousand", {1000}), ("three hundred and thirty", {330}),
    ("twenty-one, twenty-first, 21st", {21}),
    ("6½ sacks", {6.5}), ("$2.5 million", {2_500_000}), ("2,300 or two thousand three hundred", {2300}),
    ("1870–1939", {1870, 1939}),
    ("-5 °C", {-5}), ("pages 3-5", {3, 5}), ("the twentieth", {20}), ("five six", {5, 6}),
    ("1889-03-31", {1889, 3, 31}),
    ("nothing", set()),
    ("two hundred thousand and six", {200_006}), ("A and B", set()), ("twenty and thirty", {20, 30}),
])
def test_numbers_in_digits_and_words(text: str, values: set[float]) -> None:
    assert {q.value for q in quantities(text) if q.required} == values


PASSES = [
    ("The tower is 330 metres tall.", "The tower is 330 m tall."),
    ("The tower has 1,665 steps.", "There are 1665 steps in the tower."),
    ("Eggs hatch in two days.", "Eggs hatch in 2 days."),
    ("It opened on 31 March 1889.", "The opening was on March 31, 1889."),
    ("It opened on 1889-03-31.", "It opened on 31 March 1889."),
    ("30% voted.", "Some 30 per cent voted."),
    ("It cost $5 million.", "It cost 5 million dollars."),
    ("One of the chambers is large.", "The large chamber is on the left."),
    ("The United States won.", "The U.S. won the match."),
    ("The EU won.", "The European Union won."),
    ("Paul leads TUMAS.", "Paul is the leader of the Taskforce of United Methodists on Abortion and Sexuality."),
    ("We met Thomas Davis.", "We met Davis."),
    ("There are schools in India.", "Indian schools are many."),
    ("He saw the Superbowl.", "He saw the Super Bowl."),
    ("It eats bananas.", "It eats a banana."),
    ("It is 330.", "It is 330."),
    ("Use `shutil.rmtree()` to delete a tree.", "shutil.rmtree\nDelete a directory tree."),
    ("He called it \"a great day\".", "He said that it was a Great Day."),
    ("Honey never spoils.", "Honey does not spoil."),
    ("Pskov was not destroyed.", "All were destroyed with the exception of Pskov."),
    ("The tower is tall.", "Not only is the tower tall, it is old."),
    ("Honey spoils.", "Honey does not spoil in jars but honey spoils in air."),
]
FAILS = [
    ("The tower is 350 metres tall.", "The tower is 330 metres tall.", "number: 350 m"),
    ("The tower is 330 feet tall.", "The tower is 330 metres tall.", "number: 330 foot"),
    ("Eggs hatch in two weeks.", "Eggs hatch in two days.", "number: 2 week"),
    ("It opened in 1989.", "It opened in 1889.", "number: 1989"),
    ("It was -5 °C.", "It was 5 °C.", "number: -5 °c"),
    ("Nobody saw Kurt Cobain.", "Nobody saw Kurt Coleman.", "name: Kurt Cobain"),
    ("It stands in Rome.", "It stands in Paris.", "name: Rome"),
    ("The UK won.", "The United States won.", "name: UK"),
    ("Use os.rmdir to delete a tree.", "shutil.rmtree\nDelete a directory tree.", "code name: os.rmdir"),
    ("He called it \"a bad day\".", "He called it a great day.", "quotation: a bad day"),
    ("Honey doesn't spoil.", "Honey spoils.", "negation"),
    ("Honey spoils.", "Honey never spoils.", "negation: the evidence says not spoil"),
    ("The tower is open.", "The tower is not open.", "negation: the evidence says not open"),
]


@pytest.mark.parametrize(("hypothesis", "premise"), PASSES)
def test_what_the_evidence_says_in_other_words_is_not_lacking(hypothesis: str, premise: str) -> None:
    assert lacking(premise, hypothesis) == []
    assert LexicalVerifier().entails([premise], [hypothesis])[0] >= 0.5


@pytest.mark.parametrize(("hypothesis", "premise", "what"), FAILS)
def test_what_the_evidence_lacks_makes_a_sentence_unsupported(hypothesis: str, premise: str, what: str) -> None:
    assert lacking(premise, hypothesis) == [what]
    assert LexicalVerifier().entails([premise], [hypothesis])[0] == 0.0


def test_a_sentence_of_mostly_other_words_is_unsupported() -> None:
    few, most, none = LexicalVerifier().entails(
        ["A flea lives for weeks."] * 3,
        ["A flea juggles purple umbrellas.", "A flea lives for many weeks.", "It is what it is."])
    assert few == pytest.approx(1 / 4)
    assert most == pytest.approx(3 / 4)
    assert none == 0.0, "a sentence that states nothing is entailed by nothing"


def test_the_first_word_of_a_sentence_is_no_name() -> None:
    assert names("Deleting it is easy. Never do it.\nLists are fine.") == ()
    assert names("Thomas Davis and NASA's Paul T. Stallsworth met.") == (("Thomas", "Davis"), ("NASA",),
                                                                         ("Paul", "Stallsworth"))


SAID = ["The", "tower", "Paris", "is", "not", "330", "1,000", "metres", "three", "hundred", "never", "\"a day\"",
        "os.rmdir", "and", "U.S.", ".", ","]
WORDS = st.lists(st.sampled_from(SAID), max_size=12)


@given(WORDS.map(" ".join), WORDS.map(" ".join))
def test_verdicts_are_probabilities_and_do_not_depend_on_the_batch(premise: str, hypothesis: str) -> None:
    alone = LexicalVerifier().entails([premise], [hypothesis])[0]
    assert 0 <= alone <= 1
    assert list(LexicalVerifier().entails(["x", premise], ["y", hypothesis])[1:]) == [alone]
    assert not [what for what in lacking(hypothesis, hypothesis)
                if not what.startswith("negation")], "a text has what it says"


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_can_be_judged(premise: str, hypothesis: str) -> None:
    assert 0 <= LexicalVerifier().entails([premise], [hypothesis])[0] <= 1
