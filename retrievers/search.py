"""Searching a view of an index: what every first stage does in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from ..indexers.encoders.stored import encoder_key
from ..indexers.stores.opening import open_index, shared_store
from ..indexers.stores.protocols import Store
from ..indexers.stores.unfinished import incomplete
from ..indexers.views import Version, ViewKind, built_view, fresh_view, load_view, parse_view
from ..indexers.views.filtered import FilterPlan, describe
from ..rag import models
from ..rag.dag.ports import Port, Ports
from ..rag.dag.scope import Scope, held
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.stores import store_uri
from ..rag.dag.trace import record
from ..rag.errors import (
    ConfigError,
    FingerprintMismatch,
    IndexFormatError,
    IndexNotFound,
    RegardError,
    StageError,
)
from ..rag.nouns import Batch, Query, QueryVector, Ranking, Rows, ScoreSpace
from ..rag.parts import Count, part
from ..rag.parts.identity import same_key
from .encode import Encode

_TRIES = 3

IndexPlace = Annotated[str | Path | None, AfterValidator(lambda place: None if place is None else str(place))]
"""An index as a setting: its folder, or its store's URI; kept as text."""


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """A passage store at one version, with a view of it."""

    store: Store
    version: Version
    view: Any


class Search(Stage):
    """Searches a view of the index in the folder ``index``: by queries' texts (``bm25``) or by their vectors (``flat``,
    ``hnsw``, ``ivf``).

    ``view`` is a view kind or its text, ``hnsw:m=16`` (see ``views.built_view`` for which it means where the index has
    several of its kind); ``column`` names the encoder whose vectors are searched (as the index calls it; empty: the
    view's, else the index's last). ``k`` is how many passages a query gets at the most; ``filters`` hold for every
    query, a query's own are added. Under filters the trace notes how the view was searched (``filter_plan``: exactly
    over few allowed rows, else by the index with a selector), and how many queries the index gave too few hits for and
    were searched exactly (``filter_redone_exactly``).

    Scores are in the space ``bm25``; of vectors they are cosines when the encoder normalises, else inner products. A
    vector says which encoder made it, and is not looked up among another's.
    """

    index: IndexPlace = None
    view: str | ViewKind = "flat"
    column: str = ""
    k: Count = 100
    filters: Mapping[str, Any] = {}

    def ports(self) -> Ports:
        by_text = part(ViewKind, self.view).queries == "texts"
        queries = Port("queries", Query) if by_text else Port("vectors", QueryVector)
        return Ports((queries,), (Port("ranking", Ranking),))

    @property
    def path(self) -> str:
        """The index: a folder, or a store's URI. Raises ``ConfigError`` when none was named."""
        if self.index is None:
            raise ConfigError("no index is named", where="Search", hint="set index=..., or pass --index")
        return str(self.index)

    @property
    def store_uri(self) -> str:
        return store_uri(self.index) if self.index else ""

    def store(self) -> Store:
        """The passage store, inside a pipeline at the one version that all its stages read."""
        return shared_store(self.path)

    def encoder_of(self, store: Store) -> str:
        """The column of the vectors that are searched; empty for a view of texts. Raises ``IndexNotFound`` when the
        index lacks it."""
        if part(ViewKind, self.view).queries == "texts":
            return ""
        names = list(store.encoders)
        if not names:
            raise IndexNotFound("the index has no dense vectors", where=self.path,
                                hint=f"add them: regard index --index {self.path} --encoder minilm --view flat")
        if self.column and self.column not in names:
            raise IndexNotFound(f"the index has no vectors of {self.column!r}; it has {', '.join(names)}",
                                where=self.path,
                                hint="leave encoder out, or index with this encoder too")
        return self.column or names[-1]

    def built(self, store: Store) -> Version:
        """The view as it lies on disk. Raises ``IndexNotFound`` when it was never built, or with other settings than
        ``view`` names, and ``ConfigError`` for one of many."""
        return built_view(store.path, self.view, self.encoder_of(store))

    def open(self, scope: Scope, /) -> OpenIndex:
        """The store, at the version that all stages in the scope read, and the view, fresh for it."""
        store = self.store()
        for left in reversed(range(_TRIES)):
            try:
                version = fresh_view(store, self.built(store).kind)
                key = ("view", str(version.folder), same_key(version.meta))
                view = models.acquire(key, partial(load_view, version))
            # a job may have put another in its place; what is damaged is so the next time, too
            except (OSError, IndexFormatError):
                if not left:
                    raise
                continue
            scope.callback(models.release, key)
            return scope.share(("index", self), partial(OpenIndex, store, version, view))
        raise AssertionError("the last try returns or raises")

    def identity(self) -> Any:
        """The store's version and the view's build: the one that is open, or the newest one, which ``open`` would start
        from."""
        opened: OpenIndex | None = held(("index", self))
        if opened is not None:
            return [opened.store.fingerprint, opened.version.meta]
        store = self.store()
        return [store.fingerprint, self.built(store).meta]

    def check(self) -> Iterator[Problem]:
        try:
            store = open_index(self.path)
            version = self.built(store)
            half = incomplete(store.path)
            if half is not None:
                yield Problem.of(half, fatal=False)
            parse_view(self.view, self.encoder_of(store)).expect_installed()
            yield from _whole(version)
        except RegardError as error:
            yield Problem.of(error)

    def check_inputs(self, upstream: Mapping[str, Stage]) -> Iterator[Problem]:
        """Whether a vector that comes from an ``Encode`` is of the view's encoder."""
        for name, stage in upstream.items():
            if isinstance(stage, Encode):
                try:
                    store = self.store()
                    self._expect_made_by(store, self.encoder_of(store), encoder_key(stage.made.description()),
                                         stage.made.name)
                except RegardError as error:
                    yield Problem(f"{error.what} (by stage {name!r})", hint=error.hint or "")

    def run(self, opened: OpenIndex, queries: Batch[Any]) -> Batch[Ranking]:
        """The best passages of each query. Raises ``FingerprintMismatch`` for a vector of another encoder."""
        if not queries:
            return Batch()
        column = opened.version.kind.column
        if column is None:
            space: ScoreSpace = "bm25"
            asked: Any = np.array([query.text for query in queries], dtype=object)
        else:
            space = "cosine" if opened.store.encoders[column].get("normalize", False) else "inner-product"
            asked = self._stacked(opened, column, queries)
        found: list[Ranking | None] = [None] * len(queries)
        plans: list[FilterPlan] = []
        for positions, allowed in self._groups(opened, [_query(item) for item in queries]):
            if allowed is not None and hasattr(opened.view, "plan"):
                plans.append(opened.view.plan(allowed))
            rows, scores = opened.view.search(asked[positions], self.k, allowed)
            for i, r, s in zip(positions, rows, scores, strict=True):
                n = int(np.count_nonzero(r >= 0))  # they come sorted; those after the last hit are -1
                found[i] = Ranking(r[:n], s[:n], space, opened.store)
        if plans:
            record(filter_plan=describe(plans))
        return Batch(ranking for ranking in found if ranking is not None)

    def _stacked(self, opened: OpenIndex, column: str, vectors: Batch[QueryVector]) -> Any:
        """float32 [n, d]."""
        for vector in vectors:
            if vector.kind != "dense":
                raise StageError(f"a vector of kind {vector.kind} cannot be looked up in a dense view", where="Search",
                                 hint="encode with a dense encoder")
            if vector.fingerprint:
                self._expect_made_by(opened.store, column, vector.fingerprint, vector.encoder)
        lengths = {len(vector.value) for vector in vectors}
        if len(lengths) > 1:
            raise StageError(f"the vectors of a batch have {' and '.join(map(str, sorted(lengths)))} components",
                             where="Search",
                             hint="encode all of them with the view's encoder")
        return np.array([vector.value for vector in vectors], dtype=np.float32)

    def _expect_made_by(self, store: Store, column: str, key: str, encoder: str) -> None:
        if column and key != encoder_key(store.encoders[column]):
            raise FingerprintMismatch(f"the index's vectors of {column!r} were not made by the encoder {encoder!r}, as "
                                      f"it is used here",
                                      where=self.path, hint="encode queries with the encoder that the index was made "
                                                            "with")

    def _groups(self, opened: OpenIndex, queries: list[Query]) -> Iterator[tuple[list[int], Rows | None]]:
        """Positions of the queries that have the same filters, and the rows that these allow."""
        if not self.filters and not any(query.filters for query in queries):
            yield list(range(len(queries))), None
            return
        groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
        for i, query in enumerate(queries):
            both = {**self.filters, **query.filters}
            groups.setdefault(same_key(both), (both, []))[1].append(i)
        for filters, positions in groups.values():
            yield positions, opened.store.select(filters) if filters else None


def _query(item: Query | QueryVector) -> Query:
    return item.query if isinstance(item, QueryVector) else item


def _whole(version: Version) -> Iterator[Problem]:
    """What a look at the sizes of the view's files tells; no obstacle, since it is built anew when it is opened."""
    try:
        version.expect_whole("never")
    except IndexFormatError as error:
        yield Problem.of(error, fatal=False)
