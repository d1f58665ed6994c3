"""What every first-stage retriever shares: its index, its filters, and rankings out of search results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..indexers.stores.lance.store import LanceStore
from ..indexers.stores.unfinished import incomplete
from ..indexers.views import Version, ViewKind, built_view, fresh_view, load_view
from ..rag import models
from ..rag.dag.stage import Problem, Stage
from ..rag.dag.stores import open_store
from ..rag.errors import ConfigError, IndexFormatError, RegardError
from ..rag.nouns import Batch, Query, Ranking, Rows, Scores, ScoreSpace, Step
from ..rag.parts.identity import same_key

_TRIES = 3

Search = Callable[[list[int], Rows | None], tuple[Rows, Scores]]
"""(positions in the batch, allowed rows) -> rows [n, k] and scores [n, k], best first, -1 where there are fewer."""


class FirstStage(Stage):
    """A retriever over one view of the index at ``index``. Subclasses set ``index``, ``k`` and ``filters`` and give ``spec``."""

    index: Path | None
    k: int
    filters: dict[str, Any]
    _store: LanceStore | None = None
    _version: Version | None = None
    _view: Any = None

    def spec(self, store: LanceStore) -> ViewKind:
        """The view that this retriever searches."""
        raise NotImplementedError("a subclass names its view")

    def built(self, store: LanceStore) -> Version:
        """That view as it lies on disk. Raises ``IndexNotFound`` when it was never built."""
        return built_view(self.path, self.spec(store))

    @property
    def store(self) -> LanceStore:
        """The passage store, at one version from its first use until the stage closes: in a pipeline, at the one that all stages read."""
        if self._store is None:
            opened = open_store(f"lance:{self.path}")
            assert isinstance(opened, LanceStore)
            self._store = opened
        return self._store

    @property
    def path(self) -> Path:
        """The index folder. Raises ``ConfigError`` when none was named."""
        if self.index is None:
            raise ConfigError("no index is named", where=f"stage {self.label!r}", hint="set index=..., or pass --index")
        return self.index

    @property
    def store_uri(self) -> str:
        return f"lance:{self.index}" if self.index else ""

    def open(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                version = fresh_view(self.store, self.built(self.store).kind)
                key = ("view", str(version.folder), same_key(version.meta))
                self._view = models.acquire(key, partial(load_view, version))
            except (OSError, IndexFormatError):  # a job may have put another in its place; what is damaged is so the next time, too
                if not left:
                    raise
                continue
            self._view_key, self._version = key, version
            return

    def close(self) -> None:
        if self._view is not None:
            self._view = self._version = None
            models.release(self._view_key)
        self._store = None

    def state(self) -> Any:
        """The store's version and the view's build: the one that is open, or the newest one, which ``open`` would start from."""
        version = self._version or self.built(self.store)
        return [self.store.fingerprint, version.meta]

    def check(self) -> Iterator[Problem]:
        try:
            store = LanceStore(self.path)
            version = self.built(store)
            half = incomplete(self.path)
            if half is not None:
                yield Problem(half.what, f"stage {self.label!r}", half.hint or "", fatal=False)
            yield from self.check_view(store, self.spec(store))
            yield from self._check_whole(version)
        except RegardError as error:
            yield Problem(error.what, f"stage {self.label!r}", error.hint or "")

    def _check_whole(self, version: Version) -> Iterator[Problem]:
        """What a look at the sizes of the view's files tells; no obstacle, since it is built anew when it is opened."""
        try:
            version.expect_whole("never")
        except IndexFormatError as error:
            yield Problem(error.what, f"stage {self.label!r}", error.hint or "", fatal=False)

    def check_view(self, store: LanceStore, spec: ViewKind) -> Iterator[Problem]:
        """Problems beyond a missing view."""
        return iter(())

    def retrieve(self, queries: Batch[Query], space: ScoreSpace, search: Search) -> Batch[Ranking]:
        """Search the queries in one call for each distinct filter, and make rankings."""
        if self._view is None:
            raise self.not_open()
        found: list[Ranking | None] = [None] * len(queries)
        for positions, allowed in self._groups(queries):
            rows, scores = search(positions, allowed)
            for i, r, s in zip(positions, rows, scores, strict=True):
                found[i] = self._ranking(r, s, space)
        return Batch(ranking for ranking in found if ranking is not None)

    def _groups(self, queries: Batch[Query]) -> Iterator[tuple[list[int], Rows | None]]:
        if not self.filters and not any(query.filters for query in queries):
            yield list(range(len(queries))), None
            return
        groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
        for i, query in enumerate(queries):
            both = {**self.filters, **query.filters}
            groups.setdefault(same_key(both), (both, []))[1].append(i)
        for filters, positions in groups.values():
            yield positions, self.store.select(filters) if filters else None

    def _ranking(self, rows: Rows, scores: Scores, space: ScoreSpace) -> Ranking:
        """``rows`` come sorted; those after the last hit are -1."""
        n = int(np.count_nonzero(rows >= 0))
        step = Step(self.label, space, np.arange(1, n + 1, dtype=np.int32), scores[:n])
        return Ranking(rows[:n], scores[:n], space, self.store, (step,))
