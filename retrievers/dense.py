"""Dense retrieval: a query's vector against the passages' vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..indexers.columns import column_name, require_same, stored_encoder
from ..indexers.store import LanceStore
from ..indexers.views import ViewSpec, parse_view
from ..indexers.views.faiss_view import import_faiss
from ..rag.documents import Batch, Query, Ranking
from ..rag.encoding import Encoder, close_encoder, open_encoder
from ..rag.encoding import encoder as make_encoder
from ..rag.errors import IndexNotFound
from ..rag.stage import Problem
from ..rag.trace import record
from .first_stage import FirstStage


class Dense(FirstStage):
    """Bi-encoder retrieval (Karpukhin et al. 2020, arXiv 2004.04906) over a FAISS view.

    ``encoder`` None takes the index's own (its last, where it has several) with the settings it was made with; naming one, or giving an
    ``Encoder`` object (the way to search an index that one made), checks that its fingerprint is the index's. A pipeline that holds an
    object cannot be saved to a file. ``view`` is ``faiss:flat``, ``faiss:hnsw`` or ``faiss:ivf``. A query longer than the encoder's
    window is cut there, and counted in the trace as ``truncated``. Scores are cosines when the encoder normalises, else inner
    products; they may differ in the seventh digit with the batch that a query is encoded in.
    """

    def __init__(
        self, index: Path | None = None, k: int = 100, encoder: str | Encoder | None = None, view: str = "faiss:flat",
        filters: dict[str, Any] | None = None, device: str | None = None,
    ) -> None:
        self.index = index
        self.k = k
        self.encoder = encoder
        self.view = view
        self.filters = filters or {}
        self.device = device
        self._encoder: Encoder | None = None

    def spec(self, store: LanceStore) -> ViewSpec:
        return parse_view(self.view, self._name(store))

    def _name(self, store: LanceStore) -> str:
        """The column of the encoder that is asked for. Raises ``IndexNotFound`` when the index lacks it."""
        names = list(store.encoders)
        if not names:
            raise IndexNotFound("the index has no dense vectors", where=str(self.path),
                                hint=f"add them: regard index --index {self.path} --encoder minilm --view faiss:flat")
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
            made = stored_encoder(stored, self.device)
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
        open_encoder(made)
        self._encoder = made

    def close(self) -> None:
        super().close()
        if self._encoder is not None:
            close_encoder(self._encoder)
            self._encoder = None

    def state(self) -> Any:
        return [super().state(), self.store.encoders[self._name(self.store)]]

    def check_view(self, store: LanceStore, spec: ViewSpec) -> Iterator[Problem]:
        import_faiss()
        self._make_encoder(store)
        return iter(())

    def run(self, queries: Batch[Query]) -> Batch[Ranking]:
        """The nearest passages of each query."""
        assert self._encoder is not None, "run comes after open"
        texts = [query.text for query in queries]
        cut = self._encoder.truncated(texts)
        if cut:
            record(truncated=cut)
        vectors = self._encoder.encode_queries(texts)
        normalised = self.store.encoders[self._view.spec.encoder].get("normalize", False)
        return self.retrieve(queries, "cosine" if normalised else "inner-product",
                             lambda positions, allowed: self._view.search(vectors[positions], self.k, allowed))
