"""Dense retrieval: a query's vector against the passages' vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..indexers.encoders.stored import chosen_encoder, column_name, require_same
from ..indexers.stores.lance.store import LanceStore
from ..indexers.views import ViewKind
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem, Stage
from ..rag.errors import RegardError
from ..rag.models.chosen import hub
from ..rag.models.encoding import Encoder
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts import Card, Count
from ..rag.trust import Connection
from .encode import Encode, OpenEncode
from .search import OpenIndex, Search


class OpenDense(NamedTuple):
    encode: Encode
    encoder: OpenEncode
    searched: OpenIndex


class Dense(Stage):
    """Bi-encoder retrieval: ``Encode``, then ``Search`` in a view of vectors.

    ``encoder`` None takes the index's own (its last, where it has several) with the settings it was made with, if that is an embedded model
    or one that the user has named (``rag.models.chosen``: an index from others may not choose what is loaded); naming one checks that it
    is the one that the index was made with. ``view``, ``k``, ``filters``, the scores and what the trace notes are as in ``Search`` and
    ``Encode``; scores may differ in the seventh digit with the batch that a query is encoded in.
    """

    card = Card("Karpukhin et al.", 2020, arxiv="2004.04906")

    index: Path | None = None
    k: Count = 100
    filters: Mapping[str, Any] = {}
    encoder: Encoder | None = None
    view: str | ViewKind = "flat"
    device: str | None = None

    @functools.cached_property
    def search(self) -> Search:
        """The second half."""
        column = column_name(self.encoder.name) if self.encoder is not None else ""
        return Search(self.index, view=self.view, column=column, k=self.k, filters=self.filters)

    @property
    def store_uri(self) -> str:
        return self.search.store_uri

    def encode(self, store: LanceStore) -> Encode:
        """The first half, with the index's encoder, or the one that was named, if it is the index's."""
        column = self.search.encoder_of(store)
        stored = store.encoders[column]
        made = chosen_encoder(stored, self.search.path, self.device) if self.encoder is None else self.encoder
        require_same(column, stored, made.description(), str(self.search.path))
        return Encode(made)

    def open(self, scope: Scope, /) -> OpenDense:
        index = scope.open(self.search)
        encode = self.encode(index.store)
        return OpenDense(encode, scope.open(encode), index)

    def identity(self) -> Any:
        store = self.search.store()
        return [self.search.identity(), store.encoders[self.search.encoder_of(store)]]

    def connections(self) -> Iterator[Connection]:
        return hub([] if self.encoder is None else [self.encoder.name])

    def check(self) -> Iterator[Problem]:
        try:
            self.encode(LanceStore(self.search.path))
        except RegardError as error:
            yield Problem(error.what, hint=error.hint or "")
            return
        yield from self.search.check()

    def run(self, opened: OpenDense, queries: Batch[Query]) -> Batch[Ranking]:
        """The nearest passages of each query."""
        return self.search.run(opened.searched, opened.encode.run(opened.encoder, queries))
