"""Answer metrics of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): exact match and token F1 after normalisation."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from ..errors import EvaluationError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 when the normal form of ``prediction`` is that of any gold answer, else 0.0."""
    predicted = normalise(prediction)
    return float(any(predicted == normalise(gold) for gold in _some(golds)))


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """The best F1 over the gold answers between the bags of words of the normal forms, in [0, 1].

    Where either side has no words left, the value is 1.0 if neither has, else 0.0 (as in SQuAD 2.0).
    """
    predicted = normalise(prediction).split()
    return max(_f1(predicted, normalise(gold).split()) for gold in _some(golds))


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))


def _some(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str) or not golds:
        raise EvaluationError("gold answers are a list of at least one string",
                              hint="a query's are in metadata['answers']")
    return golds
