"""Rerank texts that are already there: no index, no pipeline to build."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from ..dag.pipeline import Pipeline
from ..dag.stage import Stage
from ..errors import ConfigError
from ..nouns import Document, Passage, PassageList, Query, Ranking
from ..tables import table

Text = str | Document | Passage | tuple[str, str]
_ALL = 1_000_000_000
_KEPT_OPEN = 2


def rerank(
    query: str | Query, texts: Iterable[Text], model: str | Stage = "minilm-cross-encoder", *, k: int | None = None,
) -> Ranking:
    """Rank ``texts`` for ``query``, best first.

        for hit in rerank("how long does a flea live", ["The Moon orbits the Earth.", "A flea lives for months."]):
            print(hit.rank, hit.passage.text, hit.score)

    ``texts`` are strings, ``(id, text)`` pairs, ``Document``s (each as one passage) or ``Passage``s. The ranking's
    ``rows`` are their positions, from 0; a plain string's id is its position, too. ``model`` is a cross-encoder's name,
    folder or Hugging Face id, or any reranker stage: ``AttentionReranker()`` ranks its first ``depth`` texts. The last
    few cross-encoders stay loaded between calls. ``k`` keeps the best k.

    Raises ``ConfigError`` for what is no text or a ``k`` below 1, ``EmptyQueryError``, and what the model raises
    (``ModelNotFound``, ``MissingDependency``, ``UnsupportedModel``).
    """
    if isinstance(texts, str | Document | Passage):
        raise ConfigError(f"texts is one {type(texts).__name__}", where="rerank", hint="give a list of texts")
    passages = [_passage(text, position) for position, text in enumerate(texts)]
    asked = query if isinstance(query, Query) else Query(query)
    given = Ranking.ranked(range(len(passages)), [0.0] * len(passages), "logit", PassageList(passages))
    if isinstance(model, Stage):
        with _pipeline(model) as pipeline:
            ranking: Ranking = pipeline.run(asked, given).ranking
    else:
        ranking = _cross_encoder(model).run(asked, given).ranking
    return ranking if k is None else ranking.top(k)


def _passage(text: Any, position: int) -> Passage:
    match text:
        case Passage():
            return text
        case Document():
            return Passage(text.id, text.id, text.text, 0, len(text.text), text.title, text.metadata)
        case str():
            return Passage(str(position), str(position), text, 0, len(text))
        case (str() as name, str() as content):
            return Passage(name, name, content, 0, len(content))
    raise ConfigError(f"{text!r:.80} is no text", where=f"rerank, text {position}",
                      hint="a str, an (id, text) pair, a Document or a Passage")


@functools.lru_cache(_KEPT_OPEN)
def _cross_encoder(model: str) -> Pipeline:
    """Open from its first run until as many others were asked for: then nobody holds it, and it lets go of its
    model."""
    return _pipeline(table("regard.stages")["CrossEncoder"](model=model, depth=_ALL))


def _pipeline(reranker: Any) -> Pipeline:
    """A pipeline from a query and a ranking to ``ranking``."""
    pipeline = Pipeline("rerank")
    query, given = pipeline.input(Query), pipeline.input(Ranking, "given")
    return pipeline.output(ranking=pipeline.add(reranker, query, given))
