"""The lexical verifier: what a sentence states and its evidence does not say, found by rules over words, without a
model. English only.

A sentence is not entailed (probability 0) when its evidence lacks one of these:
- **a number**: as digits or words (``1,000``, ``1000``, ``one thousand``; ``6½``, ``6.5``; ``20th``, ``twentieth``),
  with its unit where both name one (``330 m`` is ``330 metres`` and not ``330 feet``; nothing is converted). ``one``,
  ``first`` and ``second`` are no numbers there. Dates are numbers and a month (``31 March 1889``, ``1889-03-31``);
- **a name**: a run of capitalised words that is not one word at the sentence's beginning. The evidence has its words,
  in any form that begins alike (``India``, ``Indian``), its acronym or what its acronym stands for (``US``), or a
  shorter form of it (``Davis`` for ``Thomas Davis``, but ``Kurt Coleman`` is not ``Kurt Cobain``);
- **a code name** (``os.rmdir``) or a **quoted string**, case and punctuation aside;
- **a negation**: the sentence negates and the evidence does not, or the evidence says a word that the sentence states
  only after a ``not``.

Else the probability is the share of the sentence's distinct content words that the evidence has: a sentence that says
mostly other words falls below one half. That is a rule and no likelihood. It knows nothing of who did what to whom:
another name *of the same evidence* passes. ``tests/benchmarks/bench_citations.py`` measures it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from ..rag.dag.scope import Scope
from ..rag.models.verification import Verifier
from .words import STOP_WORDS, code_names, content_words

_TOKEN = re.compile(r"[^\W_]+(?:[.'’&-][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s?$")
_QUOTED = re.compile(r"[\"“„](.+?)[\"”“]|`+([^`]+)`+")
_INITIAL = re.compile(r"\.?\s+")
_SPACES = (" ", "\u00a0", "\u202f", "  ")

# -- numbers ------------------------------------------------------------------------------

_UNDER_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_ORDINALS_FROM_THIRD = (
    "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth",
    "fourteenth",
    "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
)
_SMALL = {word: value for value, word in enumerate(_UNDER_TWENTY)}
_TENS = dict(zip(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), range(20, 100, 10),
                 strict=True))
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000,
           "trillion": 1_000_000_000_000}
_ORDINALS = {word: value for value, word in enumerate(_ORDINALS_FROM_THIRD, 3)} | {f"{w[:-1]}ieth": v
                                                                                   for w, v in _TENS.items()}
_LIGHT = {"one": 1, "first": 1, "second": 2}
"""Numbers of the evidence that a sentence need not mean as numbers."""
_MONTHS = {month: number for number, month in enumerate((
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december"), 1)}

_DIGITS = r"\d{1,3}(?:[,\u202f\u00a0]\d{3})+(?:\.\d+)?|\d+\.\d+|\d+"
_NUMERAL = re.compile(rf"(?P<sign>(?<![\w.)])[-−](?=\d))?(?P<digits>{_DIGITS})?(?P<fraction>[¼½¾⅓⅔⅛⅜⅝⅞])?"
                      r"|(?P<word>[^\W\d_]+)")

_UNITS = {alias: name for name, aliases in {
    "m": "m metre metres meter meters", "km": "km kilometre kilometres kilometer kilometers",
    "cm": "cm centimetre centimetres centimeter "
    "centimeters", "mm": "mm millimetre millimetres millimeter millimeters", "mile": "mi mile miles",
    "foot": "ft foot feet",
    "inch": "inch inches", "yard": "yd yard yards", "kg": "kg kilogram kilograms", "g": "g gram grams",
    "tonne": "t tonne tonnes ton tons",
    "lb": "lb lbs pound pounds", "%": "% percent", "usd": "$ usd dollar dollars", "eur": "€ eur euro euros",
    "gbp": "£ gbp",
    "second": "s sec secs second seconds", "minute": "min mins minute minutes", "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks", "month": "month months", "year": "year years", "°c": "°c celsius", "°f": "°f fahrenheit",
    "kb": "kb kilobyte kilobytes", "mb": "mb megabyte megabytes", "gb": "gb gigabyte gigabytes",
}.items() for alias in aliases.split()}
_AFTER = re.compile(r"[ \u00a0\u202f-]?(?:(per cent)|([%€£$]|°[CF]\b)|([A-Za-z]+)\b)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it is stated; ``unit`` is empty where none of the known ones follows (or, for a currency, precedes)
    it."""

    value: float
    unit: str = ""
    required: bool = True

    def within(self, stated: Iterable[Quantity]) -> bool:
        """Whether ``stated`` has this number, and not only in other units."""
        return any(self.value == other.value and ("" in (self.unit, other.unit) or self.unit == other.unit)
                   for other in stated)


@lru_cache(4096)
def quantities(text: str) -> frozenset[Quantity]:
    """The numbers that ``text`` states."""
    found: set[Quantity] = set()
    matches = [m for m in _NUMERAL.finditer(text) if m.group()]
    i = 0
    while i < len(matches):
        value, required, n = _number(matches[i:i + 12])
        if n:
            begin, end = matches[i].start(), matches[i + n - 1].end()
            found.add(Quantity(value, _unit(text, begin, end), required))
        elif (month := _MONTHS.get(matches[i].group().lower())) and _beside_a_number(matches, i):
            found.add(Quantity(month, required=False))
        i += n or 1
    return frozenset(found)


def _number(matches: Sequence[re.Match[str]]) -> tuple[float, bool, int]:
    """The number that begins at the first match, whether a sentence that states it means it, and how many matches it
    takes (or 0)."""
    head = matches[0]
    if head["digits"] or head["fraction"]:
        value = float(re.sub(r"[^\d.]", "", head["digits"] or "0")) + (unicodedata.numeric(head["fraction"])
                                                                       if head["fraction"] else 0)
        value = -value if head["sign"] else value
        scale = _SCALES.get(matches[1].group().lower()) if len(matches) > 1 and _adjacent(head, matches[1]) else None
        return (value * scale, True, 2) if scale else (value, True, 1)
    word = head.group().lower()
    if word in _ORDINALS or word in ("first", "second"):
        return float(_ORDINALS.get(word, _LIGHT.get(word, 0))), word in _ORDINALS, 1
    return _spelled(matches)


def _spelled(matches: Sequence[re.Match[str]]) -> tuple[float, bool, int]:
    """A number in words: ``three hundred and thirty``, ``twenty-one``, ``twenty-first``."""
    total, part, taken, last = 0.0, 0.0, 0, ""
    for n, match in enumerate(matches, 1):
        word = match.group().lower()
        if n > 1 and not _adjacent(matches[n - 2], match):
            break
        if word in _SMALL and (last in ("", *_TENS, *_SCALES, "and")
                               and not (last in _TENS and not 0 < _SMALL[word] < 10)):
            part += _SMALL[word]
        elif word in _TENS and last in ("", *_SCALES, "and"):
            part += _TENS[word]
        elif word in _SCALES and taken and last != "and":
            part, total = (part * 100, total) if word == "hundred" else (0.0, total + part * _SCALES[word])
        elif word in (*_ORDINALS, *_LIGHT) and last in _TENS and 0 < {**_ORDINALS, **_LIGHT}[word] < 10:
            return total + part + {**_ORDINALS, **_LIGHT}[word], True, n
        elif word == "and" and last in _SCALES:
            last = word
            continue
        else:
            break
        taken, last = n, word
    value = total + part
    return value, not (taken == 1 and matches[0].group().lower() == "one"), taken


def _adjacent(left: re.Match[str], right: re.Match[str]) -> bool:
    return left.string[left.end():right.start()] in (" ", "-", "\u00a0", "\u202f")


def _beside_a_number(matches: Sequence[re.Match[str]], i: int) -> bool:
    return any(0 <= j < len(matches) and matches[j]["digits"] for j in (i - 1, i + 1))


def _unit(text: str, begin: int, end: int) -> str:
    if begin and text[begin - 1] in "$€£":
        return _UNITS[text[begin - 1]]
    after = _AFTER.match(text, end)
    return "" if after is None else "%" if after[1] else _UNITS.get((after[2] or after[3]).lower(), "")


# -- names --------------------------------------------------------------------------------


@lru_cache(4096)
def names(text: str, *, first: bool = False) -> tuple[tuple[str, ...], ...]:
    """Runs of capitalised words of ``text``, stop words and possessive endings left out; with ``first``, a sentence's
    first word too."""
    tokens = list(_TOKEN.finditer(text))
    runs: list[list[re.Match[str]]] = []
    for token in tokens:
        if not any(c.isupper() for c in token.group()):
            continue
        if runs and _joins(text[runs[-1][-1].end():token.start()], runs[-1][-1].group()):
            runs[-1].append(token)
        else:
            runs.append([token])
    kept = (tuple(_bare(t.group()) for t in run if t.group().lower() not in STOP_WORDS) for run in runs if first
            or not _begins(text, run))
    return tuple(run for run in kept if run)


def _joins(gap: str, before: str) -> bool:
    """Words of one name stand side by side, or after an initial's full stop; a possessive ends a name."""
    return (gap in _SPACES and not _POSSESSIVE.search(before)) or (len(before) == 1
                                                                   and _INITIAL.fullmatch(gap) is not None)


def _begins(text: str, run: Sequence[re.Match[str]]) -> bool:
    """Whether ``run`` may be capitalised for no other reason than that a sentence begins there."""
    word = run[0].group()
    before = text[:run[0].start()].rstrip(" \"“'(`*-")
    at_start = not before or before[-1] in ".!?:\n"
    return len(run) == 1 and at_start and not any(c.isupper() or c.isdigit() for c in word[1:])


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", word)


class _Evidence:
    """What the words of one evidence are, in the forms that a sentence may take them up."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.stems = content_words(text)
        self.tokens = [_bare(m.group()) for m in _TOKEN.finditer(text)]
        self.words = {token.lower() for token in self.tokens}
        self.plain = _plain(text)
        self.names = [content_words(" ".join(name)) for name in names(text, first=True)]
        self.quantities = quantities(text)

    def has_word(self, word: str) -> bool:
        """Whether the evidence has ``word``, written together or apart, or one that begins alike (``India``,
        ``Indian``)."""
        low = _bare(word).lower()
        if content_words(low) <= self.stems:
            return True
        proper = word[0].isupper()
        root = low[:max(4, len(low) - (4 if proper else 3))]
        others = {token.lower() for token in self.tokens if token[0].isupper()} if proper else self.words
        alike = len(low) >= 4 and any(other.startswith(root) and abs(len(other) - len(low)) <= 4 for other in others)
        return alike or (len(low) >= 6 and _plain(low) in self.plain)

    def has_name(self, name: Sequence[str]) -> bool:
        """Whether the evidence has the words of ``name``, a shorter form of it, its acronym, or what it is the acronym
        of."""
        if all(self.has_word(word) or self.spells_out(word) for word in name):
            return True
        stems = content_words(" ".join(name))
        acronym = "".join(word[0] for word in name).lower()
        return any(other < stems for other in self.names if other) or (
            len(name) > 1 and any(word.replace(".", "") == acronym for word in self.words))

    def spells_out(self, acronym: str) -> bool:
        """Whether capitalised words, stop words between them aside, begin with the letters of ``acronym``; or it stands
        with full stops."""
        letters = acronym.replace(".", "")
        if len(letters) < 2 or not letters.isupper():
            return False
        return letters in {token.replace(".", "") for token in self.tokens} or any(
            self._spells(letters, i) for i in range(len(self.tokens)))

    def _spells(self, letters: str, start: int) -> bool:
        for token in self.tokens[start:]:
            if token[0] == letters[0]:
                letters = letters[1:]
            elif token.lower() not in STOP_WORDS or token[0].isupper():
                return False
            if not letters:
                return True
        return False


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())


# -- negation -----------------------------------------------------------------------------

_NEGATORS = frozenset(["not", "no", "never", "none", "cannot", "without", "neither", "nor", "nobody", "nothing",
                       "nowhere"])
_ALSO_NEGATES = content_words("fail forbid prohibit prevent lack exception excluding deny refuse unable impossible "
                              "unlike rather")
_STRICT = frozenset(["not", "never", "cannot"])
_WORDS_AND_STOPS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[.,;:!?()]")


def _negates(text: str) -> bool:
    tokens = _WORDS_AND_STOPS.findall(text.lower())
    return any(_is_negator(token, _NEGATORS) for token in tokens)


def _is_negator(token: str, negators: frozenset[str]) -> bool:
    return token in negators or token.endswith(("n't", "n’t"))


def _negated(text: str) -> frozenset[str]:
    """The stems that ``text`` only states after a ``not``: the first content word after each, up to the next
    punctuation."""
    tokens = _WORDS_AND_STOPS.findall(text.lower())
    found: set[str] = set()
    for i, token in enumerate(tokens):
        if _is_negator(token, _STRICT) and tokens[i + 1:i + 2] != ["only"]:
            after = takewhile(lambda t: t[0].isalnum(), tokens[i + 1:])
            found |= next((stems for stems in map(content_words, after) if stems), frozenset())
    return frozenset(stem for stem in found if sum(stem in content_words(token) for token in tokens) == 1)


# -- the verifier -------------------------------------------------------------------------


def lacking(premise: str, hypothesis: str) -> list[str]:
    """What ``hypothesis`` states and ``premise`` does not: each as ``kind: what``."""
    return list(_lacking(_Evidence(premise), hypothesis))


def _lacking(evidence: _Evidence, hypothesis: str) -> Iterator[str]:
    for quantity in quantities(hypothesis):
        if quantity.required and not quantity.within(evidence.quantities):
            yield f"number: {quantity.value:g} {quantity.unit}".rstrip()
    for name in names(hypothesis):
        if not evidence.has_name(name):
            yield f"name: {' '.join(name)}"
    for code in code_names(hypothesis):
        if not content_words(code) <= evidence.stems:
            yield f"code name: {code}"
    for quoted in _QUOTED.finditer(hypothesis):
        said = quoted[1] or quoted[2]
        if _plain(said) not in evidence.plain:
            yield f"quotation: {said}"
    stated = content_words(hypothesis)
    if _negates(hypothesis):
        if not _negates(evidence.text) and not evidence.stems & _ALSO_NEGATES:
            yield "negation"
    elif _negated(evidence.text) & stated and not stated & _ALSO_NEGATES:
        yield f"negation: the evidence says not {' '.join(sorted(_negated(evidence.text) & stated))}"


class LexicalVerifier(Verifier):
    """See the module. No model; the rules change with the reader's ``version``."""

    name = "lexical"

    def open(self, scope: Scope, /) -> LexicalVerifier:
        return self

    def entails(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float64]:
        """float64 [n], as :class:`~regard.rag.models.verification.Verifier` says."""
        read = {premise: _Evidence(premise) for premise in dict.fromkeys(premises)}
        return np.array([_entails(read[p], h) for p, h in zip(premises, hypotheses, strict=True)], dtype=np.float64)


def _entails(evidence: _Evidence, hypothesis: str) -> float:
    if any(True for _ in _lacking(evidence, hypothesis)):
        return 0.0
    named = {word.lower() for name in names(hypothesis) for word in name}  # all of them found, some as an acronym
    words = {_bare(m.group()) for m in _TOKEN.finditer(hypothesis)}
    stated = {word for word in words if content_words(word) and not _is_number(word)}
    if not stated:  # "It is 330.", "No."
        return float(any(quantity.required for quantity in quantities(hypothesis)))
    return sum(word.lower() in named or evidence.has_word(word) for word in stated) / len(stated)


def _is_number(word: str) -> bool:
    """Numbers are found by their value, however they are written."""
    return word[0].isdigit() or word.lower() in {*_SMALL, *_TENS, *_SCALES, *_ORDINALS}
