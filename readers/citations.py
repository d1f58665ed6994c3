"""Citations: every sentence of an answer is compared with every sentence of the passages that the model was shown,
cites the most similar ones, and is then judged: does what it cites entail it? The language model is not asked to cite.

**Similar.** The ``support`` that a passage sentence ``e`` gives an answer sentence ``s`` is ``(cosine + overlap) / 2``,
in [0, 1]:
- ``cosine``: of their embeddings, negative values counted as 0;
- ``overlap``: the share of the content words of ``s`` (stemmed, distinct, stop words left out) that occur in ``e`` or
  in its passage's title; 0 when ``s`` contains a number or a code name (``os.rmdir``) that they do not, since a
  near-copy with another figure or another function is a common mistake.

It tells what a sentence is about, not whether it is true. Measured with minilm on XQuAD-en by
``tests/benchmarks/bench_citations.py`` (597 questions made statements by putting the gold answer where the question
word was): at the default threshold of 0.55, 90 % cite their own paragraph, and so do 70 % of the same statements with
another answer from the paragraph.

**Entailed.** A verifier (``readers.verifiers``) gets all that a sentence cites as the premise, with the passages'
titles and the sentence before each quotation, to which its pronouns may refer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rag.nouns import Citation, Passage, Sentence
from ..rag.text import sentence_spans
from .words import code_names, content_words

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Entails = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]
"""A verifier's method: premises and hypotheses in, probabilities out."""

MIN_SUPPORT = 0.55
CITATIONS_A_SENTENCE = 2
LIST_NUMBER = re.compile(r"\(?\d{1,2}[.)]")


@dataclass(frozen=True, slots=True)
class Cited:
    """``sentences`` of the answer point into ``citations``."""

    citations: tuple[Citation, ...]
    sentences: tuple[Sentence, ...]


def cite(
    answer: str, passages: Sequence[Passage], embed: Embed, min_support: float = MIN_SUPPORT,
    entails: Entails | None = None,
) -> Cited:
    """Find the passage sentences that are similar to each sentence of ``answer``, and judge whether they entail it.

    ``embed`` gives float32 [n, d] for n texts, of any length; each distinct text is embedded once, all in one call. A
    sentence cites the (at most two) passage sentences with the highest support, if that reaches ``min_support``; the
    same span of a document is cited once, with the highest support it gives. ``entails`` judges the sentences that cite
    something, all in one call; one that cites nothing has probability 0. None: no sentence is judged.
    """
    spans = claims(answer)
    evidence = _evidence(passages)
    texts = [answer[a:b] for a, b in spans]
    support = _support(texts, evidence, embed) if texts and evidence else np.zeros((len(texts), 0))
    chosen = [_best(row, min_support) for row in support]
    used = list(dict.fromkeys(j for row in chosen for j in row))
    strongest = [max(float(support[i, j]) for i, row in enumerate(chosen) if j in row) for j in used]
    probabilities = _judged(texts, [[evidence[j] for j in row] for row in chosen], entails)
    return Cited(
        tuple(evidence[j].citation(value) for j, value in zip(used, strongest, strict=True)),
        tuple(Sentence(a, b, tuple(used.index(j) for j in row), probability)
              for (a, b), row, probability in zip(spans, chosen, probabilities, strict=True)),
    )


def _judged(texts: Sequence[str], cited: Sequence[Sequence[_Evidence]], entails: Entails | None) -> list[float | None]:
    if entails is None:
        return [None] * len(texts)
    asked = [i for i, evidence in enumerate(cited) if evidence]
    judged = [float(p) for p in entails([_premise(cited[i])
                                         for i in asked], [texts[i] for i in asked])] if asked else []
    found = dict(zip(asked, judged, strict=True))
    return [found.get(i, 0.0) for i in range(len(texts))]


def _premise(cited: Sequence[_Evidence]) -> str:
    """What ``cited`` say, each with its passage's title and the sentence before it; one a line, none twice."""
    return "\n".join(dict.fromkeys(text for e in cited for text in (e.passage.title, e.before, e.text) if text))


def claims(answer: str) -> list[tuple[int, int]]:
    """Spans of the answer's sentences; the number of a list item is no sentence of its own."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(answer):
        if spans and LIST_NUMBER.fullmatch(answer[slice(*spans[-1])]):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


@dataclass(frozen=True, slots=True)
class _Evidence:
    """One sentence of a passage, by its span in the passage's text; ``before`` is the sentence before it, or empty."""

    passage: Passage
    start: int
    end: int
    before: str

    @property
    def text(self) -> str:
        return self.passage.text[self.start:self.end]

    def citation(self, support: float) -> Citation:
        offset = self.passage.start
        return Citation(self.passage.id, self.passage.document_id, offset + self.start, offset + self.end, self.text,
                        support)


def _evidence(passages: Sequence[Passage]) -> list[_Evidence]:
    """Each span of a document once, from the first passage that holds it."""
    found: dict[tuple[str, int, int], _Evidence] = {}
    for passage in passages:
        before = ""
        for start, end in sentence_spans(passage.text):
            sentence = _Evidence(passage, start, end, before)
            found.setdefault((passage.document_id, passage.start + start, passage.start + end), sentence)
            before = sentence.text
    return list(found.values())


def _support(sentences: Sequence[str], evidence: Sequence[_Evidence], embed: Embed) -> NDArray[np.float64]:
    """float64 [sentences, evidence], each in [0, 1]."""
    said = [(content_words(s), _must_occur(s)) for s in sentences]
    known = [content_words(f"{e.passage.title} {e.text}") for e in evidence]
    overlap = np.array([[_overlap(content, must, k) for k in known] for content, must in said], dtype=np.float64)
    return (_cosine(sentences, [e.text for e in evidence], embed) + overlap) / 2


def _cosine(left: Sequence[str], right: Sequence[str], embed: Embed) -> NDArray[np.float64]:
    """float64 [left, right], negative values cut to 0."""
    row = {text: i for i, text in enumerate(dict.fromkeys([*left, *right]))}
    vectors = np.asarray(embed(list(row)), dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.clip(vectors[[row[t] for t in left]] @ vectors[[row[t] for t in right]].T, 0.0, 1.0),
                      dtype=np.float64)


def _overlap(said: frozenset[str], must: frozenset[str], known: frozenset[str]) -> float:
    return len(said & known) / len(said) if said and must <= known else 0.0


def _must_occur(sentence: str) -> frozenset[str]:
    """The stems of a sentence's numbers and code names, which no synonym can stand for."""
    numbers = {word for word in content_words(sentence) if word[0].isdigit()}
    return content_words(" ".join(code_names(sentence))) | numbers


def _best(row: NDArray[np.float64], min_support: float) -> list[int]:
    order = np.argsort(-row, kind="stable")[:CITATIONS_A_SENTENCE]
    return [int(j) for j in order if row[j] >= min_support]
