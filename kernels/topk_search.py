"""Exact search: the k vectors with the largest inner product with each query, without a matrix of scores."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .codes import Codes, encode_codes
from .dispatch import choose

__all__ = ["Codes", "encode_codes", "topk_search", "topk_search_reference"]

_STORED = (torch.float32, torch.float16, torch.bfloat16)
_MOST_ROWS = 1 << 32
"""A score and its row are kept as one number of 64 bits."""
_OVERSAMPLE = {"int8": 2, "binary": 16}
"""Candidates for each of the k: recall@100 is then above 0.99 on real embeddings (``tests/benchmarks/bench_topk.py``
measures it)."""


def topk_search(
    queries: Tensor, vectors: Tensor | NDArray[Any], k: int, *, codes: Codes | None = None,
    oversample: int | None = None,
    path: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` vectors with the largest inner products: scores float32 [B, k] and indices int64 [B, k], best first.

    ``queries`` [B, d] of any float dtype, used as float32; ``vectors`` [n, d] float32, float16 or bfloat16, which may
    be an array (``np.memmap`` too) on the CPU and is best C-contiguous: it is copied otherwise. With k > n there are n
    columns. Equal scores come in the order of their indices. Sums are in float32, and a score depends on its query and
    its vector alone: not, by a single bit on the CPU, on the batch.

    With ``codes`` of the same vectors (:func:`encode_codes`) the search is approximate: ``oversample`` x k candidates
    (None: 2 for int8, 16 for binary) by the codes, then their exact scores, which are those of the exact search.

    Raises ValueError for shapes that do not fit, k < 1, a query that is not finite, and a score that is NaN or plus
    infinity (so that a vector with NaN is refused rather than ranked; one with infinities may rank last); TypeError for
    another dtype of vectors.
    """
    queries, stored = queries.detach(), _as_tensor(vectors)
    _check(queries, stored, k, codes, oversample)
    wanted = min(k, len(stored))
    if wanted == 0 or len(queries) == 0:
        shape = (len(queries), wanted)
        return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)
    candidates = wanted if codes is None else min(len(stored), wanted * (oversample or _OVERSAMPLE[codes.kind]))
    taken = choose("topk_search", stored.device, path)
    if taken == "triton":
        from .gpu.topk_search import topk_search as on_gpu

        return on_gpu(queries if queries.dtype == stored.dtype else queries.float(), stored, wanted, codes, candidates)
    if taken == "cpu":
        from .cpu.topk_search import topk_search as on_cpu

        return on_cpu(queries.float(), stored, wanted, codes, candidates)
    rows = None if codes is None else best_by_codes_reference(queries, codes, candidates)
    scores, indices = topk_search_reference(queries.float(), stored.float(), wanted, rows)
    return scores, indices


def topk_search_reference(queries: Tensor, vectors: Tensor, k: int, rows: Tensor | None = None) -> tuple[Tensor,
                                                                                                         Tensor]:
    """The definition, with all scores in memory, in the dtype of its inputs; ``rows`` int64 [B, m] are all that each
    query may find."""
    scores = queries @ vectors.T
    if (scores.isnan() | scores.isposinf()).any():
        raise ValueError("topk_search: a score is NaN or infinite; remove vectors that are not finite")
    if rows is not None:
        found = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, rows, True)
        scores = scores.masked_fill(~found, -torch.inf)
    best, indices = scores.sort(dim=1, descending=True, stable=True)
    return best[:, :k], indices[:, :k]


def best_by_codes_reference(queries: Tensor, codes: Codes, candidates: int) -> Tensor:
    """The rows int64 [B, candidates] with the best estimates, in plain torch."""
    estimates = (codes.query_codes(queries.float()).double() @ codes.signed().double().T).float() * codes.weights
    return estimates.sort(dim=1, descending=True, stable=True)[1][:, :candidates]


def _as_tensor(vectors: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(vectors, Tensor):
        return vectors
    with warnings.catch_warnings():
        # torch warns of read-only arrays, which a memory map is; nothing writes to it here
        warnings.simplefilter("ignore")
        return torch.from_numpy(vectors)


def _check(queries: Tensor, vectors: Tensor, k: int, codes: Codes | None, oversample: int | None) -> None:
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1] or vectors.shape[1] == 0:
        raise ValueError(f"topk_search: queries of shape {tuple(queries.shape)} and vectors of shape "
                         f"{tuple(vectors.shape)}; "
                         "expected [B, d] and [n, d] with d >= 1")
    if len(vectors) > _MOST_ROWS:
        raise ValueError(f"topk_search: {len(vectors)} vectors; at most {_MOST_ROWS} are searched at once")
    if vectors.dtype not in _STORED:
        raise TypeError(f"topk_search: vectors are {vectors.dtype}; expected float32, float16 or bfloat16")
    if k < 1 or (oversample is not None and oversample < 1):
        raise ValueError(f"topk_search: k = {k} and oversample = {oversample} must be at least 1")
    if not queries.isfinite().all():
        raise ValueError("topk_search: a component of a query is NaN or infinite")
    if codes is not None and not codes.fits(vectors):
        raise ValueError(f"topk_search: codes of shape {tuple(codes.data.shape)} are not those of vectors of shape "
                         f"{tuple(vectors.shape)}")
