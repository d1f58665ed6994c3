"""Dense retrieval: a query's vector against the passages' vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..indexers.encoders.stored import chosen_encoder, column_name, own_model, require_same, stored_encoder
from ..indexers.stores.opening import open_index
from ..indexers.stores.protocols import Store
from ..indexers.views import ViewKind
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem, Stage
from ..rag.errors import IndexNotFound, RegardError
from ..rag.models.chosen import hub
from ..rag.models.encoding import Encoder
from ..rag.nouns import Batch, Query, Ranking
from ..rag.parts import Card, Count, part
from ..rag.trust import Connection
from .encode import Encode, OpenEncode
from .search import IndexPlace, OpenIndex, Search


class OpenDense(NamedTuple):
    encode: Encode
    encoder: OpenEncode
    searched: OpenIndex


class Dense(Stage):
    """Bi-encoder retrieval: ``Encode``, then ``Search`` in a view of vectors.

    ``encoder`` None takes the index's own (its last, where it has several) with the settings it was made with, if that
    is an embedded model or one that the user has named (``rag.models.chosen``: an index from others may not choose what
    is loaded); naming a model alone means it as the index uses it, and naming an encoder checks that it is the one that
    the index was made with. ``view``, ``k``, ``filters``, the scores and what the trace notes are as in ``Search`` and
    ``Encode``; scores may differ in the seventh digit with the batch that a query is encoded in.
    """

    card = Card("Karpukhin et al.", 2020, arxiv="2004.04906")

    index: IndexPlace = None
    k: Count = 100
    filters: Mapping[str, Any] = {}
    encoder: str | Encoder | None = None
    view: str | ViewKind = "flat"
    device: str | None = None

    @functools.cached_property
    def search(self) -> Search:
        """The second half."""
        column = column_name(self.named.name) if self.named is not None else ""
        return Search(self.index, view=self.view, column=column, k=self.k, filters=self.filters)

    @property
    def store_uri(self) -> str:
        return self.search.store_uri

    @functools.cached_property
    def named(self) -> Encoder | None:
        """The encoder that is asked for. Raises what ``rag.models.resolve`` raises for a model that is not there."""
        return None if self.encoder is None else part(Encoder, self.encoder)

    def encode(self, store: Store) -> Encode:
        """The first half, with the index's encoder, or the one that was named, if it is the index's."""
        named, index = self.named, self.search.path
        if named is not None and store.encoders and self.search.column not in store.encoders:
            raise IndexNotFound(f"the index has no vectors of {named.name!r}; it has {', '.join(store.encoders)}",
                                where=index,
                                hint="leave encoder out, or index with this encoder too")
        column = self.search.encoder_of(store)
        stored = store.encoders[column]
        if named is None:
            made = chosen_encoder(stored, index, self.device)
        elif isinstance(self.encoder, str) and named.changed().keys() <= {"model"} and own_model(stored) == named.name:
            made = stored_encoder(stored, self.device)
        else:
            made = named
        require_same(column, stored, made.description(), index)
        return Encode(made)

    def open(self, scope: Scope, /) -> OpenDense:
        index = scope.open(self.search)
        encode = self.encode(index.store)
        return OpenDense(encode, scope.open(encode), index)

    def identity(self) -> Any:
        store = self.search.store()
        return [self.search.identity(), store.encoders[self.search.encoder_of(store)]]

    def connections(self) -> Iterator[Connection]:
        return hub([] if self.named is None else [self.named.name])

    def check(self) -> Iterator[Problem]:
        try:
            self.encode(open_index(self.search.path))
        except RegardError as error:
            yield Problem.of(error)
            return
        yield from self.search.check()

    def run(self, opened: OpenDense, queries: Batch[Query]) -> Batch[Ranking]:
        """The nearest passages of each query."""
        return self.search.run(opened.searched, opened.encode.run(opened.encoder, queries))
