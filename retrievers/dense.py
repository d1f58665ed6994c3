"""Dense retrieval: a query's vector against the passages' vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..indexers.encoders.stored import chosen_encoder, column_name, require_same
from ..indexers.stores.lance.store import LanceStore
from ..indexers.views import Version, ViewSpec, parse_view
from ..indexers.views.faiss_view import import_faiss
from ..indexers.views.filtered import FilterPlan, describe
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem
from ..rag.dag.trace import record
from ..rag.errors import IndexNotFound
from ..rag.models.chosen import hub
from ..rag.models.encoding import Encoder, OpenEncoder
from ..rag.nouns import Batch, Query, Ranking, Rows, Scores
from ..rag.parts import Card
from ..rag.trust import Connection
from .first_stage import FirstStage, OpenIndex


class OpenDense(NamedTuple):
    searched: OpenIndex
    encoder: OpenEncoder


class Dense(FirstStage):
    """Bi-encoder retrieval over a FAISS view.

    ``encoder`` None takes the index's own (its last, where it has several) with the settings it was made with, if that is an embedded model
    or one that the user has named (``rag.models.chosen``: an index from others may not choose what is loaded); naming one checks that it
    is the one that the index was made with. ``view`` is ``faiss:flat``, ``faiss:hnsw`` or ``faiss:ivf``. A query longer than the encoder's
    window is cut there, and counted in the trace as ``truncated``. Under filters the trace notes how the view was searched
    (``filter_plan``: exactly over few allowed rows, else by the index with a selector), and how many queries the index gave too few
    hits for and were searched exactly (``filter_redone_exactly``). Scores are cosines when the encoder normalises, else inner
    products; they may differ in the seventh digit with the batch that a query is encoded in.
    """

    card = Card("Karpukhin et al.", 2020, arxiv="2004.04906")

    encoder: Encoder | None = None
    view: str = "faiss:flat"
    device: str | None = None

    def spec(self, store: LanceStore) -> ViewSpec:
        return parse_view(self.view, self._name(store))

    def built(self, store: LanceStore) -> Version:
        """Raises ``IndexNotFound`` too when the view was built with other parameters than ``view`` names."""
        version, wanted = super().built(store), self.spec(store)
        named = [setting.partition("=")[0] for setting in self.view.partition("@")[0].split(",")[1:]]
        if any(version.spec.parameters[name] != wanted.parameters[name] for name in named):
            raise IndexNotFound(f"the index's view is {version.spec}, not {wanted}", where=str(self.path),
                                hint=f"build it so: regard index --index {self.path} --view {wanted}; or leave the parameters out")
        return version

    def _name(self, store: LanceStore) -> str:
        """The column of the encoder that is asked for. Raises ``IndexNotFound`` when the index lacks it."""
        names = list(store.encoders)
        if not names:
            raise IndexNotFound("the index has no dense vectors", where=str(self.path),
                                hint=f"add them: regard index --index {self.path} --encoder minilm --view faiss:flat")
        if self.encoder is None:
            return names[-1]
        name = column_name(self.encoder.name)
        if name not in names:
            raise IndexNotFound(f"the index has no vectors of {self.encoder.name!r}; it has {', '.join(names)}", where=str(self.path),
                                hint="leave encoder out, or index with this encoder too")
        return name

    def _encoder(self, store: LanceStore) -> Encoder:
        """The index's encoder, or the one that was named, if it is the index's."""
        name = self._name(store)
        stored = store.encoders[name]
        made = chosen_encoder(stored, self.path, self.device) if self.encoder is None else self.encoder
        require_same(name, stored, made.description(), str(self.path))
        return made

    def open(self, scope: Scope, /) -> OpenDense:
        index = self.open_index(scope)
        return OpenDense(index, scope.open(self._encoder(index.store)))

    def identity(self) -> Any:
        store = self.store()
        return [super().identity(), store.encoders[self._name(store)]]

    def connections(self) -> Iterator[Connection]:
        return hub([] if self.encoder is None else [self.encoder.name])

    def check_view(self, store: LanceStore, spec: ViewSpec) -> Iterator[Problem]:
        import_faiss()
        self._encoder(store)
        return iter(())

    def run(self, opened: OpenDense, queries: Batch[Query]) -> Batch[Ranking]:
        """The nearest passages of each query."""
        index, encoder = opened
        texts = [query.text for query in queries]
        cut = encoder.truncated(texts)
        if cut:
            record(truncated=cut)
        vectors = encoder.encode_queries(texts)
        plans: list[FilterPlan] = []

        def search(positions: list[int], allowed: Rows | None) -> tuple[Rows, Scores]:
            if allowed is not None:
                plans.append(index.view.plan(allowed))
            found: tuple[Rows, Scores] = index.view.search(vectors[positions], self.k, allowed)
            return found

        normalised = index.store.encoders[index.view.spec.encoder].get("normalize", False)
        rankings = self.retrieve(index, queries, "cosine" if normalised else "inner-product", search)
        if plans:
            record(filter_plan=describe(plans))
        return rankings
