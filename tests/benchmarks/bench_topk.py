"""Exact search and search by codes against torch's product and top-k, and FAISS's flat index.

Vectors are minilm's for the passages of SciFact and Vaswani, tiled with Gaussian noise (standard deviation a component:
--noise) to --rows and normalised; queries are the collections' own. FAISS is told to use matrix products for every
batch. A bar on a ratio is against torch in the same process, the two taking turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Figures, alternate, arguments, collection, collection_index, median
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views.faiss_view import import_faiss
from regard.kernels.codes import Codes, encode_codes
from regard.kernels.topk_search import topk_search
from regard.rag.dag.scope import Scope
from regard.rag.evaluation import read_beir
from regard.rag.models.encoding import Encoder
from regard.rag.parts import part
from torch import Tensor

K = 100
BARS = {(None, 1): 1.0, (None, 32): 1.0, (None, 256): 1.0, ("int8", 1): 4.0, ("int8", 256): 5.0}


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors searched (default: %(default)s)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.02, 0.01],
                        help="of the tiled vectors; times are taken at the first (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5,
                        help="runs of each at batch 256, more of smaller ones (default: %(default)s)")
    parser.add_argument("--no-faiss", action="store_true", help="leave FAISS out: it takes a minute")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    figures, real = Figures(), {name: load(name, options.cache) for name in ("scifact", "vaswani")}
    for name, (vectors, queries) in real.items():
        for kind in ("int8", "binary"):
            figures.show(f"{name} as it is ({len(vectors)} vectors), {kind}, recall@{K}",
                         recall(queries, vectors, kind), bar=(">=", 0.99),
                         digits=4)
    passages, queries = (torch.cat(part) for part in zip(*real.values(), strict=True))
    for noise in options.noise:
        vectors = tiled(passages, options.rows, noise)
        codes = {kind: encode_codes(vectors, kind) for kind in ("int8", "binary")}
        for kind, made in codes.items():
            figures.show(f"tiled to {options.rows:,}, noise {noise}, {kind}, recall@{K} ({len(queries)} queries)",
                         recall(queries, vectors, kind, made), bar=(">=", 0.99), digits=4)
        if noise == options.noise[0]:
            speed(figures, queries, vectors, codes, options.rounds, with_faiss=not options.no_faiss)
    figures.exit()


def load(name: str, cache: Path) -> tuple[Tensor, Tensor]:
    """A collection's passage vectors and query vectors."""
    store = LanceStore(collection_index(name, cache, encoder="minilm"))
    with Scope() as scope:
        queries = scope.open(part(Encoder, "minilm")).encode_queries([query.text
                                                                      for query in read_beir(collection(name)).queries])
    return torch.from_numpy(np.concatenate([*store.vectors("minilm")])), torch.from_numpy(queries)


def tiled(vectors: Tensor, rows: int, noise: float) -> Tensor:
    random, out = torch.Generator().manual_seed(0), torch.empty(rows, vectors.shape[1])
    for first in range(0, rows, len(vectors)):
        part = out[first:first + len(vectors)]
        part.copy_(vectors[:len(part)]).add_(torch.randn(part.shape, generator=random), alpha=noise)
    return torch.nn.functional.normalize(out, dim=1, out=out)


def recall(queries: Tensor, vectors: Tensor, kind: str, codes: Codes | None = None) -> float:
    """Of the K nearest, averaged over all queries."""
    found = topk_search(queries, vectors, K, codes=codes or encode_codes(vectors, kind))[1]
    exact = topk_search(queries, vectors, K)[1]
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found.numpy(), exact.numpy(), strict=True)]))


def speed(figures: Figures, queries: Tensor, vectors: Tensor, codes: dict[str, Codes], rounds: int, *,
          with_faiss: bool) -> None:
    ways: dict[str | None, Callable[[Tensor], object]] = {None: lambda q: topk_search(q, vectors, K)}
    ways |= {kind: partial(topk_search, vectors=vectors, k=K, codes=made) for kind, made in codes.items()}
    half = vectors.half()
    ways["float16"] = lambda q: topk_search(q, half, K)
    for batch in (1, 32, 256):
        some = queries[torch.linspace(0, len(queries) - 1, batch).long()]
        turns = rounds * (4 if batch == 1 else 1)

        def torchs(some: Tensor = some) -> tuple[Tensor, Tensor]:
            return torch.topk(some @ vectors.T, K)

        def ours(way: Callable[[Tensor], object], some: Tensor = some) -> object:
            return way(some)

        scores, indices = topk_search(some, vectors, K)
        peer_scores, peer_indices = torchs()
        assert float((scores - peer_scores).abs().max()) < 1e-5
        figures.show(f"batch {batch}: share of hits that torch ranks alike",
                     float((indices == peer_indices).float().mean()), digits=4)
        own, theirs = {}, []
        for kind, way in ways.items():
            ours(way)
            own[kind], peer = alternate(partial(ours, way), torchs, turns)
            theirs += peer
        figures.show(f"batch {batch}: torch matmul + topk", median(theirs) * 1e3, "ms", digits=1)
        for kind in ways:
            figures.show(f"batch {batch}: topk_search, {kind or 'float32'}", median(own[kind]) * 1e3, "ms", digits=1)
            bar = BARS.get((kind, batch))
            figures.show("  speed relative to torch", median(theirs) / median(own[kind]), "x", bar and (">=", bar),
                         digits=2)
        if with_faiss:
            figures.show(f"batch {batch}: FAISS flat", faiss_flat(vectors, some, max(3, turns // 2)), "ms", digits=1)


def faiss_flat(vectors: Tensor, queries: Tensor, rounds: int) -> float:
    """Milliseconds of a search of a flat index, which copies the vectors."""
    faiss = import_faiss()
    assert faiss.cvar.distance_compute_blas_threshold == 1
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    index.search(queries.numpy(), K)
    return median(alternate(lambda: index.search(queries.numpy(), K), lambda: None, rounds)[0]) * 1e3


if __name__ == "__main__":
    main()
