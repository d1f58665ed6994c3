"""Vectors as small codes: a first pass over an eighth to a thirtieth of the bytes, after which ``topk_search`` rescores
exactly.

``int8``: each component in 8 bits with one scale a row. ``binary``: one bit a component after centring and a random
rotation, with the weight that makes the estimate of an inner product unbiased (RaBitQ, Gao & Long 2024, arXiv
2405.12497). Unlike there the query has 8 bits and is rounded to nearest, the only centroid is the mean, and the
candidates are a fixed number rather than bounded by the estimate's error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["int8", "binary"]

_WORD = 64
"""Signs in one word of a binary code."""
_ROWS_AT_ONCE = 1 << 16
_SEED = 0


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of n vectors of d components, all on the CPU or all on one GPU.

    ``data`` int8 [n, d], or int64 [n, ceil(d / 64)] with component i in bit i % 64 of word i // 64, set where it is
    positive; ``weights`` float32 [n]: a row's estimate is its weight times the product of codes and query; ``rotation``
    float32 [d, d] for binary codes, which queries are multiplied with on the right, [0, 0] for int8.
    """

    data: Tensor
    weights: Tensor
    rotation: Tensor

    @property
    def kind(self) -> Kind:
        return "int8" if self.data.dtype == torch.int8 else "binary"

    def __len__(self) -> int:
        return len(self.data)

    def fits(self, vectors: Tensor) -> bool:
        """Whether these can be the codes of ``vectors``, by their shape."""
        n, d = vectors.shape
        return tuple(self.data.shape) == ((n, d) if self.kind == "int8" else (n, _words(d)))

    def signed(self) -> Tensor:
        """The codes as whole numbers, int8 [n, d]: for binary ones 1 and -1."""
        if self.kind == "int8":
            return self.data
        bits = self.data[:, :, None] >> torch.arange(_WORD, device=self.data.device) & 1
        return (2 * bits - 1).to(torch.int8).flatten(1)[:, :len(self.rotation)]

    def arrays(self) -> dict[str, Tensor]:
        """Everything, by name, for safetensors or ``np.savez``; :meth:`from_arrays` reads it back."""
        return {"data": self.data, "weights": self.weights, "rotation": self.rotation}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor | NDArray[Any]]) -> Codes:
        """Raises ValueError for arrays that are not a :class:`Codes`."""
        given = {name: torch.as_tensor(array) for name, array in arrays.items()}
        if set(given) != {"data", "weights", "rotation"} or given["data"].dtype not in (torch.int8, torch.int64):
            raise ValueError(f"codes: expected data (int8 or int64), weights and rotation, got {sorted(given)}")
        if given["weights"].shape != given["data"].shape[:1]:
            raise ValueError(f"codes: {len(given['data'])} rows but {len(given['weights'])} weights")
        return cls(**given)

    def to(self, device: torch.device | str) -> Codes:
        return Codes(self.data.to(device), self.weights.to(device), self.rotation.to(device))

    def query_codes(self, queries: Tensor) -> Tensor:
        """``queries`` float32 [n, d] as whole numbers in -127..127 for this kind's products, int8 [n, d]; their scale
        is left out."""
        turned = queries @ self.rotation if self.kind == "binary" else queries
        return _rounded(turned)[0]


def encode_codes(vectors: Tensor | NDArray[Any], kind: Kind = "int8") -> Codes:
    """The codes of ``vectors`` [n, d], float32, float16 or bfloat16, a tensor or an array (``np.memmap`` too, read once
    or twice).

    Bytes a row: d + 4 for int8, d / 8 + 4 (d rounded up to 64) for binary. The same vectors give the same codes. Raises
    ValueError for an unknown kind, another shape, and a component that is NaN or infinite.
    """
    if kind not in ("int8", "binary"):
        raise ValueError(f"codes: unknown kind {kind!r}; valid: int8, binary")
    if vectors.ndim != 2:
        raise ValueError(f"codes: vectors of shape {tuple(vectors.shape)}, expected [n, d]")
    return _int8(vectors) if kind == "int8" else _binary(vectors)


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Token vectors [t, d] as int8 [t, d] in -127..127 and float32 scales [t]: ``tokens ~ codes * scales[:, None]``.
    See ``maxsim``."""
    codes, scales = _rounded(tokens.float())
    if not torch.isfinite(scales).all():
        raise ValueError("quantize_tokens: a component is NaN or infinite")
    return codes, scales


def _int8(vectors: Tensor | NDArray[Any]) -> Codes:
    n, d = vectors.shape
    data, weights = torch.empty(n, d, dtype=torch.int8), torch.empty(n)
    for first, block in _blocks(vectors):
        data[first:first + len(block)], weights[first:first + len(block)] = _rounded(block)
    return Codes(data, weights, torch.empty(0, 0))


def _binary(vectors: Tensor | NDArray[Any]) -> Codes:
    n, d = vectors.shape
    rotation = _rotation(d)
    total = torch.zeros(d, dtype=torch.float64)
    for _, block in _blocks(vectors):
        total += block.sum(dim=0, dtype=torch.float64)
    center = (total / max(1, n)).float()
    data, weights = torch.empty(n, _words(d), dtype=torch.int64), torch.empty(n)
    for first, block in _blocks(vectors):
        turned = (block - center) @ rotation
        data[first:first + len(block)] = _packed(turned > 0)
        # |r|^2 / sum |r_i| times the product with the signs has the inner product with r as its expectation (RaBitQ's
        # estimator)
        weights[first:first + len(block)] = (turned.square().sum(dim=1) / turned.abs().sum(dim=1)).nan_to_num_()
    return Codes(data, weights, rotation)


def _blocks(vectors: Tensor | NDArray[Any]) -> Iterator[tuple[int, Tensor]]:
    """The vectors as float32, a block at a time with its first row."""
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        part = vectors[first:first + _ROWS_AT_ONCE]
        block = part.float().cpu() if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float32))
        if not torch.isfinite(block).all():
            raise ValueError(f"codes: a component of rows {first} to {first + len(block)} is NaN or infinite")
        yield first, block


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [n, d] and the scale of each row, float32 [n]; a row of zeros has scale 0."""
    scales = vectors.abs().amax(dim=1) / 127
    codes = (vectors / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_()
    return codes.to(torch.int8), scales


def _rotation(d: int) -> Tensor:
    """A fixed random rotation, float32 [d, d]: no component of any embedding model then matters more than another."""
    noise = torch.from_numpy(np.random.default_rng(_SEED).standard_normal((d, d)))
    rotation: Tensor = torch.linalg.qr(noise)[0]
    return rotation.float().contiguous()


def _words(d: int) -> int:
    return -(-d // _WORD)


def _packed(signs: Tensor) -> Tensor:
    """bool [n, d] as int64 [n, ceil(d / 64)], the first component in the lowest bit."""
    padded = np.zeros((len(signs), _words(signs.shape[1]) * _WORD), bool)
    padded[:, :signs.shape[1]] = signs.numpy()
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view("<i8"))
