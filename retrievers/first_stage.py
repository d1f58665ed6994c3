"""What every first-stage retriever shares: its index, its filters, and rankings out of search results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..indexers.stores.lance.store import LanceStore
from ..indexers.stores.unfinished import incomplete
from ..indexers.views import Version, ViewSpec, built_view, fresh_view, load_view
from ..rag import models
from ..rag.dag.scope import Scope, held
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.stores import open_store
from ..rag.errors import ConfigError, IndexFormatError, RegardError
from ..rag.nouns import Batch, Query, Ranking, Rows, Scores, ScoreSpace
from ..rag.parts import Count
from ..rag.parts.identity import same_key

_TRIES = 3

Search = Callable[[list[int], Rows | None], tuple[Rows, Scores]]
"""(positions in the batch, allowed rows) -> rows [n, k] and scores [n, k], best first, -1 where there are fewer."""


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """A passage store at one version, with a view of it."""

    store: LanceStore
    version: Version
    view: Any


class FirstStage(Stage):
    """A retriever over one view of the index in the folder ``index``. Subclasses say which (``spec``).

    ``k`` is how many passages a query gets at the most; ``filters`` hold for every query, a query's own are added.
    """

    index: Path | None = None
    k: Count = 100
    filters: Mapping[str, Any] = {}

    def spec(self, store: LanceStore) -> ViewSpec:
        """The view that this retriever searches."""
        raise NotImplementedError("a subclass names its view")

    def built(self, store: LanceStore) -> Version:
        """That view as it lies on disk. Raises ``IndexNotFound`` when it was never built."""
        return built_view(self.path, self.spec(store))

    @property
    def path(self) -> Path:
        """The index folder. Raises ``ConfigError`` when none was named."""
        if self.index is None:
            raise ConfigError("no index is named", where=type(self).__name__, hint="set index=..., or pass --index")
        return self.index

    @property
    def store_uri(self) -> str:
        return f"lance:{self.index}" if self.index else ""

    def open_index(self, scope: Scope) -> OpenIndex:
        """The store, at the version that all stages in the scope read, and the view, fresh for it."""
        store = self.store()
        for left in reversed(range(_TRIES)):
            try:
                version = fresh_view(store, self.built(store).spec)
                key = ("view", str(version.folder), same_key(version.meta))
                view = models.acquire(key, partial(load_view, version))
            except (OSError, IndexFormatError):  # a job may have put another in its place; what is damaged is so the next time, too
                if not left:
                    raise
                continue
            scope.callback(models.release, key)
            return scope.share(self._key, partial(OpenIndex, store, version, view))
        raise AssertionError("the last try returns or raises")

    def store(self) -> LanceStore:
        """The passage store, inside a pipeline at the one version that all its stages read."""
        opened = open_store(f"lance:{self.path}")
        assert isinstance(opened, LanceStore)
        return opened

    @property
    def _key(self) -> tuple[str, FirstStage]:
        return ("index", self)

    def identity(self) -> Any:
        """The store's version and the view's build: the one that is open, or the newest one, which ``open`` would start from."""
        opened: OpenIndex | None = held(self._key)
        if opened is not None:
            return [opened.store.fingerprint, opened.version.meta]
        store = self.store()
        return [store.fingerprint, self.built(store).meta]

    def check(self) -> Iterator[Problem]:
        try:
            store = LanceStore(self.path)
            version = self.built(store)
            half = incomplete(self.path)
            if half is not None:
                yield Problem(half.what, hint=half.hint or "", fatal=False)
            yield from self.check_view(store, self.spec(store))
            yield from self._check_whole(version)
        except RegardError as error:
            yield Problem(error.what, hint=error.hint or "")

    def _check_whole(self, version: Version) -> Iterator[Problem]:
        """What a look at the sizes of the view's files tells; no obstacle, since it is built anew when it is opened."""
        try:
            version.expect_whole("never")
        except IndexFormatError as error:
            yield Problem(error.what, hint=error.hint or "", fatal=False)

    def check_view(self, store: LanceStore, spec: ViewSpec) -> Iterator[Problem]:
        """Problems beyond a missing view."""
        return iter(())

    def retrieve(self, opened: OpenIndex, queries: Batch[Query], space: ScoreSpace, search: Search) -> Batch[Ranking]:
        """Search the queries in one call for each distinct filter, and make rankings."""
        found: list[Ranking | None] = [None] * len(queries)
        for positions, allowed in self._groups(opened, queries):
            rows, scores = search(positions, allowed)
            for i, r, s in zip(positions, rows, scores, strict=True):
                n = int(np.count_nonzero(r >= 0))  # they come sorted; those after the last hit are -1
                found[i] = Ranking(r[:n], s[:n], space, opened.store)
        return Batch(ranking for ranking in found if ranking is not None)

    def _groups(self, opened: OpenIndex, queries: Batch[Query]) -> Iterator[tuple[list[int], Rows | None]]:
        if not self.filters and not any(query.filters for query in queries):
            yield list(range(len(queries))), None
            return
        groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
        for i, query in enumerate(queries):
            both = {**self.filters, **query.filters}
            groups.setdefault(same_key(both), (both, []))[1].append(i)
        for filters, positions in groups.values():
            yield positions, opened.store.select(filters) if filters else None
