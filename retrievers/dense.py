"""Dense retrieval: a query's vector against the passages' vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..indexers.jobs.columns import chosen_encoder, column_name, require_same, stored_encoder
from ..indexers.stores.lance.store import LanceStore
from ..indexers.views import Version, ViewKind, built_view, parse_view
from ..indexers.views.filtered import FilterPlan, describe
from ..rag.dag.stage import Problem
from ..rag.dag.trace import record
from ..rag.errors import IndexNotFound
from ..rag.models.encoding import Encoder, close_encoder, open_encoder
from ..rag.models.encoding import encoder as make_encoder
from ..rag.nouns import Batch, Query, Ranking, Rows, Scores
from ..rag.parts.settings import Count
from .first_stage import FirstStage


class Dense(FirstStage):
    """Bi-encoder retrieval (Karpukhin et al. 2020, arXiv 2004.04906) over a FAISS view.

    ``encoder`` None takes the index's own (its last, where it has several) with the settings it was made with, if that is an embedded model
    or one that the user has named (``rag.trust``: an index from others may not choose what is loaded); naming one, or giving an
    ``Encoder`` object (the way to search an index that one made), checks that its fingerprint is the index's. A pipeline that holds an
    object cannot be saved to a file. ``view`` is a view kind over vectors, ``flat``, ``hnsw:m=16``
    or ``ivf``. A query longer than the encoder's
    window is cut there, and counted in the trace as ``truncated``. Under filters the trace notes how the view was searched
    (``filter_plan``: exactly over few allowed rows, else by the index with a selector), and how many queries the index gave too few
    hits for and were searched exactly (``filter_redone_exactly``). Scores are cosines when the encoder normalises, else inner
    products; they may differ in the seventh digit with the batch that a query is encoded in.
    """

    model_settings = ("encoder",)

    def __init__(
        self, index: str | Path | None = None, k: Count = 100, encoder: str | Encoder | None = None, view: str = "flat",
        filters: dict[str, Any] | None = None, device: str | None = None,
    ) -> None:
        self.index = None if index is None else Path(index)
        self.k = k
        self.encoder = encoder
        self.view = view
        self.filters = filters or {}
        self.device = device
        self._encoder: Encoder | None = None

    def spec(self, store: LanceStore) -> ViewKind:
        return parse_view(self.view, self._name(store))

    def built(self, store: LanceStore) -> Version:
        """Raises ``IndexNotFound`` too when the view was built with other settings than ``view`` names, ``ConfigError`` for one of many."""
        return built_view(self.path, self.view, self._name(store))

    def _name(self, store: LanceStore) -> str:
        """The column of the encoder that is asked for. Raises ``IndexNotFound`` when the index lacks it."""
        names = list(store.encoders)
        if not names:
            raise IndexNotFound("the index has no dense vectors", where=str(self.path),
                                hint=f"add them: regard index --index {self.path} --encoder minilm --view flat")
        if self.encoder is None:
            return names[-1]
        asked = self.encoder if isinstance(self.encoder, str) else self.encoder.name
        name = column_name(asked)
        if name not in names:
            raise IndexNotFound(f"the index has no vectors of {asked!r}; it has {', '.join(names)}", where=str(self.path),
                                hint="leave encoder out, or index with this encoder too")
        return name

    def _make_encoder(self, store: LanceStore) -> Encoder:
        """The index's encoder, or the one that was named or given, if its fingerprint is the index's."""
        stored = store.encoders[self._name(store)]
        if self.encoder is None:
            made = chosen_encoder(stored, self.path, self.device)
        elif isinstance(self.encoder, str):
            stored_encoder(stored, self.device)  # says so where the index was made by an object, whatever its name
            settings = {k: stored[k] for k in ("normalize", "query_prompt", "passage_prompt", "dimension") if k in stored}
            made = make_encoder(self.encoder, device=self.device, **settings)
        else:
            made = self.encoder
        require_same(self._name(store), stored, made.fingerprint(), str(self.path))
        return made

    def open(self) -> None:
        super().open()
        made = self._make_encoder(self.store)
        open_encoder(made)  # it may be an object that another pipeline uses too
        self._encoder = made

    def close(self) -> None:
        super().close()
        if self._encoder is not None:
            close_encoder(self._encoder)
            self._encoder = None

    def state(self) -> Any:
        return [super().state(), self.store.encoders[self._name(self.store)]]

    def check_view(self, store: LanceStore, spec: ViewKind) -> Iterator[Problem]:
        spec.expect_installed()
        self._make_encoder(store)
        return iter(())

    def run(self, queries: Batch[Query]) -> Batch[Ranking]:
        """The nearest passages of each query."""
        if self._encoder is None:
            raise self.not_open()
        texts = [query.text for query in queries]
        cut = self._encoder.truncated(texts)
        if cut:
            record(truncated=cut)
        vectors = self._encoder.encode_queries(texts)
        plans: list[FilterPlan] = []

        def search(positions: list[int], allowed: Rows | None) -> tuple[Rows, Scores]:
            if allowed is not None and hasattr(self._view, "plan"):
                plans.append(self._view.plan(allowed))
            found: tuple[Rows, Scores] = self._view.search(vectors[positions], self.k, allowed)
            return found

        normalised = self.store.encoders[self._name(self.store)].get("normalize", False)
        rankings = self.retrieve(queries, "cosine" if normalised else "inner-product", search)
        if plans:
            record(filter_plan=describe(plans))
        return rankings
