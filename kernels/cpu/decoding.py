"""Rows of any storage as what :func:`blocks.multiply` takes: float32, or bytes with 128 added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from .blocks import jit, lowered, prefetch

WORD = 64
"""Signs in one uint64."""


def stored(vectors: Tensor) -> NDArray[Any]:
    """``vectors`` as what ``decode`` reads: float32, int8 codes, or the bits of halves, C-contiguous."""
    vectors = vectors.contiguous()
    if vectors.dtype in (torch.float32, torch.int8):
        return vectors.numpy()
    bits = vectors.view(torch.int16).numpy()
    return bits if vectors.dtype == torch.float16 else bits.view(np.uint16)


def decode(data: Any, row: Any, out: Any, place: Any) -> None:
    """Write row ``row`` of ``data`` into ``out[place]``; for numba code only.

    ``data`` [n, ...] float32, int16 (the bits of float16), uint16 (of bfloat16), int8 (codes) or uint64 (64 signs each,
    a set bit is 1, another -1); ``out`` float32, or for the last two also uint8, which get 128 added. Columns of
    ``out`` beyond the data stay.
    """
    raise NotImplementedError("decode runs in compiled code")


def _decoder(data: Any, row: Any, out: Any, place: Any) -> Callable[..., None]:
    """What numba compiles for these types."""
    if data.dtype == types.uint64:
        return _decode_signs
    if data.dtype == types.int8:
        return _decode_floats if out.dtype == types.float32 else _decode_bytes
    return _decode_stored


overload(decode)(_decoder)


def decode_block(data: Any, first: Any, size: Any, out: Any) -> Any:
    """Rows ``first`` to ``first + size`` decoded: ``out`` with them at its beginning, or a view of ``data`` where
    nothing is to decode.

    For numba code only. ``size`` is at most ``len(out)``; see :func:`decode`.
    """
    raise NotImplementedError("decode_block runs in compiled code")


def _block_decoder(data: Any, first: Any, size: Any, out: Any) -> Callable[..., Any]:
    return _view_or_copy if data.dtype == types.float32 else _decode_rows


overload(decode_block)(_block_decoder)


def _view_or_copy(data: Any, first: Any, size: Any, out: Any) -> Any:
    """A view lets the processor fetch the rows while it multiplies; the multiplication always takes a whole block."""
    return data[first:first + size] if size == len(out) else _copied(data, first, size, out)


def _decode_rows(data: Any, first: Any, size: Any, out: Any) -> Any:
    for r in range(size):
        _fetch(data, (first + len(out) + r) * data.shape[1], data.shape[1])  # of the block after this one
        decode(data, first + r, out, r)
    return out


_copied = jit(_decode_rows)


def _decode_stored(data: Any, row: Any, out: Any, place: Any) -> None:
    for i in range(data.shape[1]):
        out[place, i] = _as_float32(data[row, i])


def _decode_floats(data: Any, row: Any, out: Any, place: Any) -> None:
    for i in range(data.shape[1]):
        out[place, i] = data[row, i]


def _decode_bytes(data: Any, row: Any, out: Any, place: Any) -> None:
    for i in range(data.shape[1]):
        out[place, i] = data[row, i] ^ -128


def _decode_signs(data: Any, row: Any, out: Any, place: Any) -> None:
    for i in range(data.shape[1]):
        _unpack_signs(data[row, i], out, place * out.shape[1] + i * WORD)


@jit
def _fetch(data: Any, first: Any, count: Any) -> None:
    """Begin to read elements ``first`` to ``first + count`` of the flat ``data``."""
    for i in range(first, first + count, 64 // data.itemsize):
        _fetch_line(data, i)


@lowered
def _fetch_line(typing: Any, data: Any, position: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, offset = arguments
        address = builder.gep(context.make_array(signature.args[0])(context, builder, array).data, [offset])
        prefetch(builder, builder.bitcast(address, ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(data, types.intp), generate


@lowered
def _as_float32(typing: Any, value: Any) -> Any:
    """A stored component as float32: float32 itself, the bits of a float16 (as int16), the bits of a bfloat16 (as
    uint16)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (bits,) = arguments
        if signature.args[0] == types.int16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
        if signature.args[0] == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(bits, ir.IntType(32)), ir.IntType(32)(16)), ir.FloatType())
        return bits

    return types.float32(value), generate


@lowered
def _unpack_signs(typing: Any, word: Any, out: Any, position: Any) -> Any:
    """Bit ``i`` of a uint64 at the flat place ``position + i`` of ``out``, i in 0..63: as 129 or 127 (uint8), as 1 or
    -1 (float32)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, array, offset = arguments
        floating = signature.args[1].dtype == types.float32
        kind = ir.VectorType(ir.FloatType() if floating else ir.IntType(8), WORD)
        high, low = (1.0, -1.0) if floating else (129, 127)
        signs = builder.select(builder.bitcast(bits, ir.VectorType(ir.IntType(1), WORD)),
                               ir.Constant(kind, [high] * WORD), ir.Constant(kind, [low] * WORD))
        address = builder.gep(context.make_array(signature.args[1])(context, builder, array).data, [offset])
        builder.store(signs, builder.bitcast(address, kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(word, out, types.intp), generate
