"""BM25 (Lucene's variant, through bm25s): English Snowball stems, Lucene's English stop words."""

from __future__ import annotations

import functools
import re
import warnings
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ...rag.nouns import Rows, Scores
from ...rag.parts import Card, Share
from ..integrity import Files, look_once
from ..stores.lance.store import LanceStore
from .kind import ViewKind
from .versions import damaged_view

_TOKEN = re.compile(r"(?u)\b\w\w+\b")
# Lucene's EnglishAnalyzer; the field's BM25 baselines are made with it
_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such",
    "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
))


class Analyzer:
    """Lower-cased words of two or more characters, without stop words, stemmed. A word is stemmed once and
    remembered."""

    def __init__(self) -> None:
        import Stemmer

        self._stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
        self._known: dict[str, str] = dict.fromkeys(_STOP_WORDS, "")

    def __call__(self, text: str) -> list[str]:
        known, out = self._known, []
        for word in _TOKEN.findall(text.lower()):
            stem = known.get(word)
            if stem is None:
                stem = known[word] = self._stem(word)
            if stem:
                out.append(stem)
        return out


_POSTINGS = "indices.csc.index.npy"


class BM25Index(ViewKind):
    """BM25 in Lucene's variant, by bm25s: term frequencies saturate with ``k1``, passages are compared at their mean
    length as far as ``b`` says."""

    card = Card("Robertson et al.", 1994,
                note="Lucene's variant (Kamphuis et al. 2020), by bm25s; English stems and stop words")
    queries = "texts"
    needs_text = True
    exact = True

    k1: Annotated[float, Field(ge=0)] = 0.9
    b: Share = 0.4

    def build(self, store: LanceStore, home: Path, progress: bool | None = None) -> BM25View:
        """Never extended: every new passage changes every word's document frequency."""
        import bm25s

        index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b, backend="numba")
        ids, vocabulary = _token_ids(store)
        with np.errstate(invalid="ignore"), warnings.catch_warnings():  # passages without words have the mean length 0
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # and there may be no passages
            index.index((ids, vocabulary), show_progress=False)
        return BM25View(index, self, store.rows)

    def load(self, folder: Path, rows: Rows) -> BM25View:
        """Raises ``IndexFormatError`` for what bm25s cannot read, and for arrays by which numba would leave its
        memory."""
        import bm25s

        try:
            index = bm25s.BM25.load(str(folder), mmap=True, load_corpus=False)
            _expect_in_order(index, len(rows))
            look_once(folder, _POSTINGS, f"below {len(rows)}", lambda: _expect_inside(index, len(rows)))
        except Exception as error:  # whatever bm25s, numpy and JSON make of a damaged file
            raise damaged_view(folder, f"{type(error).__name__}: {error}") from None
        index.backend = "numba"
        _keep_compiled()
        return BM25View(index, self, rows)


class BM25View:
    """A bm25s index; position ``i`` is passage row ``rows[i]``."""

    def __init__(self, index: Any, kind: BM25Index, rows: Rows) -> None:
        self.index = index
        self.kind = kind
        self.rows = rows
        self._analyze = Analyzer()

    def save(self, folder: Path) -> Files:
        self.index.save(str(folder), corpus=None, show_progress=False)
        return {}

    def search(self, texts: Sequence[str], k: int, allowed: Rows | None = None) -> tuple[Rows, Scores]:
        """The ``k`` best passages of each query, among those that share a word with it.

        ``allowed`` limits the search to these rows. Gives rows int64 [n, k] and scores float32 [n, k], best first,
        equal scores by row; row -1 and score -inf where fewer passages match.
        """
        n, k = len(texts), min(k, len(self.rows))
        vocabulary = self.index.vocab_dict
        queries = [[vocabulary[t] for t in self._analyze(text) if t in vocabulary] for text in texts]
        asked = [i for i, query in enumerate(queries) if query]
        rows, scores = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
        if not asked or not k:
            return rows, scores
        mask = None if allowed is None else np.isin(self.rows, allowed).astype(np.float32)
        positions, found = self.index.retrieve([queries[i] for i in asked], k=k, show_progress=False, weight_mask=mask)
        matched = found > 0
        hits = np.where(matched, np.asarray(self.rows)[positions], -1)
        found = np.where(matched, found, -np.inf)
        order = np.lexsort((hits, -found), axis=1)
        rows[asked], scores[asked] = np.take_along_axis(hits, order, axis=1), np.take_along_axis(found, order, axis=1)
        return rows, scores


def _expect_in_order(index: Any, passages: int) -> None:
    """Raise ``ValueError`` unless every word's postings lie in the arrays: numba checks no bounds."""
    data, indices, ends = (index.scores[name] for name in ("data", "indices", "indptr"))
    if index.method != "lucene" or index.scores["num_docs"] != passages:
        raise ValueError(f"{index.scores['num_docs']} passages by {index.method} instead of {passages}")
    kinds = data.dtype.kind + indices.dtype.kind + ends.dtype.kind
    if any(array.ndim != 1 for array in (data, indices, ends)) or kinds != "fii":
        raise ValueError("arrays of another form")
    if not len(ends) or ends[0] != 0 or not ends[-1] == len(indices) == len(data) or (np.diff(ends) < 0).any():
        raise ValueError("postings out of order")
    words = np.fromiter(index.vocab_dict.values(), dtype=np.int64, count=len(index.vocab_dict))
    if len(words) and not (words.min() >= 0 and words.max() < len(ends) - 1):
        raise ValueError("words without postings")


def _expect_inside(index: Any, passages: int) -> None:
    """Raise ``ValueError`` unless all postings are of passages that there are."""
    indices = index.scores["indices"]
    if len(indices) and not (indices.min() >= 0 and indices.max() < passages):
        raise ValueError("postings of passages that there are not")


@functools.cache
def _keep_compiled() -> None:
    """Have numba keep bm25s' compiled scorer on disk: a process's first query then takes 0.2 s, not 4.4 s of
    compiling."""
    from bm25s.numba import retrieve_utils

    # private there: without it queries only start slower
    scorer = getattr(retrieve_utils, "_retrieve_internal_jitted_serial", None)
    if scorer is not None:
        scorer.enable_caching()


def _token_ids(store: LanceStore) -> tuple[list[array[int]], dict[str, int]]:
    """Every passage as an array of word ids (four bytes a word, not a Python object), and the vocabulary."""
    analyze, vocabulary = Analyzer(), {"": 0}
    documents = [
        array("i", [vocabulary.setdefault(token, len(vocabulary)) for token in analyze(text)])
        for texts in store.texts() for text in texts
    ]
    return documents, vocabulary
