"""Queries to vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..indexers.encoders.stored import encoder_key
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.trace import record
from ..rag.errors import RegardError
from ..rag.models.chosen import hub
from ..rag.models.encoding import Encoder, OpenEncoder
from ..rag.nouns import Batch, Query, QueryVector
from ..rag.parts import part
from ..rag.trust import Connection


class OpenEncode(NamedTuple):
    encoder: OpenEncoder
    key: str


class Encode(Stage):
    """The vector of each query by ``encoder`` (see ``models.encoding.Encoder``), for stages that work on it, and for
    ``Search``.

    A query longer than the encoder's window is cut there, and counted in the trace as ``truncated``. The last digit of
    a vector may hang on the batch that its query is encoded in.
    """

    encoder: str | Encoder = "minilm"

    @functools.cached_property
    def made(self) -> Encoder:
        """The encoder. Raises what ``rag.models.resolve`` raises for a model that is not there."""
        return part(Encoder, self.encoder)

    def open(self, scope: Scope, /) -> OpenEncode:
        return OpenEncode(scope.open(self.made), encoder_key(self.made.description()))

    def identity(self) -> Any:
        return self.made.description()

    def check(self) -> Iterator[Problem]:
        """The model is there."""
        try:
            self.made.description()
        except RegardError as error:
            yield Problem.of(error)

    def connections(self) -> Iterator[Connection]:
        return hub([self.made.name])

    def run(self, opened: OpenEncode, queries: Batch[Query]) -> Batch[QueryVector]:
        texts = [query.text for query in queries]
        cut = opened.encoder.truncated(texts)
        if cut:
            record(truncated=cut)
        vectors = opened.encoder.encode_queries(texts) if texts else ()
        return Batch(QueryVector(query, vector, opened.encoder.name, opened.key)
                     for query, vector in zip(queries, vectors, strict=True))
