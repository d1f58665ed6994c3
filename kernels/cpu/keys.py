"""A score and its row as one whole number that sorts like them: by score, then, where scores are equal, the lower row
higher."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from .blocks import jit, lowered

LOWEST = np.int64(-(1 << 63))
"""Below every key of a score that is a number."""
_LOW, _MAGNITUDE = (1 << 32) - 1, 0x7FFFFFFF


def scores_and_rows(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What :func:`key_of` was made of."""
    bits = (keys >> 32).astype(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(_MAGNITUDE))).view(np.float32), _LOW - (keys & _LOW)


@jit
def key_of(score: Any, row: Any) -> Any:
    """The key int64 of a float32 and a row below 2**32; for numba code."""
    bits = np.int64(_bits(score + np.float32(0)))  # the sum makes -0 the 0 that it equals
    if bits < 0:
        bits ^= _MAGNITUDE
    return (bits << 32) | (_LOW - row)


@jit
def score_of(key: Any) -> Any:
    """The float32 of a key; for numba code."""
    bits = key >> 32
    if bits < 0:
        bits ^= _MAGNITUDE
    return _float(np.int32(bits))


@lowered
def _bits(typing: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda context, builder, signature, arguments: builder.bitcast(arguments[0],
                                                                                                      ir.IntType(32))


@lowered
def _float(typing: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda context, builder, signature, arguments: builder.bitcast(arguments[0],
                                                                                                      ir.FloatType())
