"""Citations by verification: the language model is not asked to cite; every sentence of its answer is compared with every
sentence of the passages that it was shown, and cites those that support it.

How well a passage sentence ``e`` supports an answer sentence ``s`` is ``(cosine + overlap) / 2``, in [0, 1]:
- ``cosine``: of their embeddings, negative values counted as 0;
- ``overlap``: the share of the content words of ``s`` (stemmed, distinct, stop words left out) that occur in ``e`` or in its
  passage's title; 0 when ``s`` contains a number or a code name (``os.rmdir``) that they do not, since a near-copy with
  another figure or another function is a common mistake.

Measured with minilm on XQuAD-en (488 questions made statements by putting the gold answer where the question word was): at the
default threshold of 0.55, 92.8% cite a sentence of their own paragraph, 4.9% some sentence of six other paragraphs (three of
them of the same article); the best sentence is the gold one in 95.1%. AUC 0.985, against 0.948 for the cosine alone. It tells
what a sentence is about, not whether it is true: the same statements with another answer from the paragraph still pass in 70%.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rag.documents import Citation, Passage, Sentence
from ..rag.text import sentence_spans, words

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

MIN_SUPPORT = 0.55
CITATIONS_A_SENTENCE = 2
STOP_WORDS = frozenset(re.findall(r"\w+", """
    a about after all also am an and any are as at be because been before being between both but by can could d did didn do does
    doesn don each for from had has have he her here him his how i if in into is isn it its itself just ll m may me might more
    most must my no nor not of on once only or other our out over own re s she should so some such t than that the their them then
    there these they this those through to too under until up use used using ve very was wasn we were what when where which while
    who whom why will with won would yes you your
"""))
_LIST_NUMBER = re.compile(r"\(?\d{1,2}[.)]")
_CODE_NAME = re.compile(r"\b\w{2,}(?:[._]\w{2,})+")
_IDENTIFIER_PART = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Cited:
    """``sentences`` of the answer point into ``citations``; ``confidence`` is None for an answer without sentences."""

    citations: tuple[Citation, ...]
    sentences: tuple[Sentence, ...]
    confidence: float | None


def cite(answer: str, passages: Sequence[Passage], embed: Embed, min_support: float = MIN_SUPPORT) -> Cited:
    """Find the passage sentences that support each sentence of ``answer``.

    ``embed`` gives float32 [n, d] for n texts, of any length; each distinct text is embedded once, all in one call. A sentence
    cites the (at most two) passage sentences with the highest support, if that reaches ``min_support``; the same span of a document
    is cited once, with the highest support it gives. ``confidence`` is the mean over the sentences of their best support, 0 for
    an unsupported one.
    """
    spans = _claims(answer)
    evidence = _evidence(passages)
    if not spans or not evidence:
        return Cited((), tuple(Sentence(a, b) for a, b in spans), 0.0 if spans else None)
    support = _support([answer[a:b] for a, b in spans], evidence, embed)
    chosen = [_best(row, min_support) for row in support]
    used = list(dict.fromkeys(j for row in chosen for j in row))
    strongest = [max(float(support[i, j]) for i, row in enumerate(chosen) if j in row) for j in used]
    return Cited(
        tuple(evidence[j].citation(value) for j, value in zip(used, strongest, strict=True)),
        tuple(Sentence(a, b, tuple(used.index(j) for j in row)) for (a, b), row in zip(spans, chosen, strict=True)),
        float(np.mean([support[i, row[0]] if row else 0.0 for i, row in enumerate(chosen)])),
    )


def _claims(answer: str) -> list[tuple[int, int]]:
    """Spans of the answer's sentences; the number of a list item is no sentence of its own."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(answer):
        if spans and _LIST_NUMBER.fullmatch(answer[slice(*spans[-1])]):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


@dataclass(frozen=True, slots=True)
class _Evidence:
    """One sentence of a passage, by its span in the passage's text."""

    passage: Passage
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.passage.text[self.start:self.end]

    def citation(self, support: float) -> Citation:
        offset = self.passage.start
        return Citation(self.passage.id, self.passage.document_id, offset + self.start, offset + self.end, self.text, support)


def _evidence(passages: Sequence[Passage]) -> list[_Evidence]:
    """Each span of a document once, from the first passage that holds it."""
    found: dict[tuple[str, int, int], _Evidence] = {}
    for passage in passages:
        for start, end in sentence_spans(passage.text):
            found.setdefault((passage.document_id, passage.start + start, passage.start + end), _Evidence(passage, start, end))
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
    return np.asarray(np.clip(vectors[[row[t] for t in left]] @ vectors[[row[t] for t in right]].T, 0.0, 1.0), dtype=np.float64)


def _overlap(said: frozenset[str], must: frozenset[str], known: frozenset[str]) -> float:
    return len(said & known) / len(said) if said and must <= known else 0.0


def _must_occur(sentence: str) -> frozenset[str]:
    """The stems of a sentence's numbers and code names, which no synonym can stand for."""
    numbers = {word for word in content_words(sentence) if word[0].isdigit()}
    return content_words(" ".join(_CODE_NAME.findall(sentence))) | numbers


def _best(row: NDArray[np.float64], min_support: float) -> list[int]:
    order = np.argsort(-row, kind="stable")[:CITATIONS_A_SENTENCE]
    return [int(j) for j in order if row[j] >= min_support]


def content_words(text: str) -> frozenset[str]:
    """The distinct stems of ``text``'s words, stop words left out; identifiers are split at their underscores and dots."""
    import Stemmer

    parts = [part for word in words(text) for part in _IDENTIFIER_PART.findall(word)]
    content = [part for part in parts if part not in STOP_WORDS]
    return frozenset(Stemmer.Stemmer("english").stemWords(content))  # made here: a stemmer must not be shared between threads
