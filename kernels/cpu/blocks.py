"""A block of rows times a panel of queries, written in LLVM's vector instructions, which numba's own loops do not
reach.

Each of ``WIDTHS`` multiplications keeps ROWS x width x LANES sums in registers (in one or two goes) and streams over
the components. On AVX-512 with VNNI 8-bit integers go through ``vpdpbusd``, 64 products an instruction; elsewhere they
are decoded to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def _features() -> dict[str, bool]:
    """What numba compiles for: ``NUMBA_CPU_FEATURES`` (``+avx2,-avx512f``), else this machine."""
    if numba.config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    return {name[1:]: name[0] == "+" for name in numba.config.CPU_FEATURES.split(",") if name}


_HAS = _features()
VNNI = _HAS.get("avx512vnni", False)
LANES = 16 if _HAS.get("avx512f", False) else 8
WIDTHS = (1, 2, 4) if LANES == 16 else (1, 2)
"""Vectors of queries in a panel: as many as leave the registers (32 or 16) room for the sums of ``_rows_at_once``."""
ROWS = 12
"""Rows of a block."""


def _rows_at_once(width: int) -> int:
    return ROWS if width == 1 else ROWS // 2


def jit(function: F) -> F:
    """Compile without Python's global lock; on a machine where no folder for the cache can be written, anew in each
    process."""
    try:
        compiled: F = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(function)
    return compiled


def lowered(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's ``intrinsic``: ``function`` gives a signature and an emitter of LLVM code. Compiled code calls it without
    ``typing``."""
    made: Callable[..., Any] = intrinsic(function)
    return made


_INT32, _INT64, _BYTES = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()


def _product(width: int) -> Any:
    """The multiplication for panels of ``width`` vectors.

    In numba code ``product(rows, panel, start, out)``: ``rows`` float32 [ROWS, d] or uint8 [ROWS, d] with d a multiple
    of 4; ``panel`` float32 [d, lanes] or int32 [d / 4, lanes], each int32 four signed bytes; ``start`` [lanes] what
    every row's sums start from; ``out`` [ROWS, lanes] float32 or int32. All C-contiguous; shapes are the caller's care.
    """

    @lowered
    def product(typing: Any, rows: Any, panel: Any, start: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [context.make_array(kind)(context, builder, value)
                      for kind, value in zip(signature.args, arguments, strict=True)]
            steps = builder.extract_value(arrays[1].shape, 0)
            stride = builder.extract_value(arrays[0].strides, 0)
            floating = rows.dtype == types.float32
            pointers = [builder.bitcast(array.data, _BYTES) for array in arrays]
            at_once = _rows_at_once(width)
            for first in range(0, ROWS, at_once):
                block = builder.gep(pointers[0], [builder.mul(stride, _INT64(first))])
                target = builder.gep(pointers[3], [_INT64(first * width * LANES * 4)])
                _multiply(builder, floating, at_once, width, steps, stride, block, pointers[1], pointers[2], target)
            return context.get_dummy_value()

        return types.void(rows, panel, start, out), generate

    return product


def _multiply(
    builder: Any, floating: bool, count: int, width: int, steps: Any, stride: Any, rows: Any, panel: Any, start: Any,
    out: Any,
) -> None:
    """Emit the loop over ``steps`` for ``count`` rows; all pointers are to bytes, a step is 4 bytes of each row.

    Meanwhile the block after this one is fetched from memory, 4 bytes a row and step. A row's address is one of few
    running pointers plus a fixed offset (up to three strides): with a pointer for each row the processor's address
    registers would spill.
    """
    vector = ir.VectorType(ir.FloatType() if floating else _INT32, LANES)
    size = LANES * 4
    offsets = [builder.mul(stride, _INT64(i)) for i in range(4)]
    sums = [_load(builder, vector, start, v * size) for v in range(width)]
    firsts = [builder.gep(rows, [builder.mul(stride, _INT64(4 * group))]) for group in range(-(-count // 4))]
    ahead = builder.gep(rows, [builder.mul(stride, _INT64(ROWS))])

    before = builder.block
    body, after = builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    step = _running(builder, _INT64, _INT64(0), before)
    running = [_running(builder, _BYTES, pointer, before) for pointer in firsts]
    panel_at = _running(builder, _BYTES, panel, before)
    old = [[_running(builder, vector, sums[v], before) for v in range(width)] for _ in range(count)]

    queries = [_load(builder, vector, panel_at, v * size) for v in range(width)]
    new = []
    for r in range(count):
        value = _broadcast(builder, vector, builder.gep(running[r // 4], [offsets[r % 4]]))
        new.append([_add_product(builder, vector, floating, value, queries[v], old[r][v]) for v in range(width)])

    if floating:  # bytes have been decoded from elsewhere
        prefetch(builder, builder.gep(ahead, [builder.mul(step, _INT64(4 * count))]))
    next_step = builder.add(step, _INT64(1))
    step.add_incoming(next_step, body)
    for pointer in running:
        pointer.add_incoming(builder.gep(pointer, [_INT64(4)]), body)
    panel_at.add_incoming(builder.gep(panel_at, [_INT64(width * size)]), body)
    for r in range(count):
        for v in range(width):
            old[r][v].add_incoming(new[r][v], body)
    builder.cbranch(builder.icmp_signed("<", next_step, steps), body, after)

    builder.position_at_end(after)
    for r in range(count):
        for v in range(width):
            address = builder.gep(out, [_INT64((r * width + v) * size)])
            builder.store(new[r][v], builder.bitcast(address, vector.as_pointer()), align=4)


def _running(builder: Any, kind: Any, first: Any, before: Any) -> Any:
    """A variable of the loop that is ``first`` when it is entered from ``before``."""
    variable = builder.phi(kind)
    variable.add_incoming(first, before)
    return variable


def _load(builder: Any, vector: Any, pointer: Any, offset: int) -> Any:
    return builder.load(builder.bitcast(builder.gep(pointer, [_INT64(offset)]), vector.as_pointer()), align=4)


def _broadcast(builder: Any, vector: Any, pointer: Any) -> Any:
    """The 4 bytes at ``pointer`` in every lane."""
    value = builder.load(builder.bitcast(pointer, vector.element.as_pointer()), align=1)
    empty = ir.Constant(vector, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(empty, value, _INT32(0)), empty, zeros)


def prefetch(builder: Any, pointer: Any) -> None:
    """Begin to read what lies at ``pointer``; an address beyond the data does no harm."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"),
                 [pointer, _INT32(0), _INT32(3), _INT32(1)])


def _add_product(builder: Any, vector: Any, floating: bool, value: Any, query: Any, total: Any) -> Any:
    """``total + value * query``: fused in float32; four unsigned times four signed bytes summed into each int32."""
    name = f"llvm.fma.v{LANES}f32" if floating else "llvm.x86.avx512.vpdpbusd.512"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [value, query, total] if floating else [total, value, query])


@lowered
def _product_alone(typing: Any, rows: Any, query: Any, start: Any, out: Any) -> Any:
    """One query's products with bytes: vectors run along the components, and a row's sum is taken across its vector at
    the end.

    ``rows`` uint8 [ROWS, d], d a multiple of 4 x LANES; ``query`` int32 [d / 4 / LANES, LANES], each four signed bytes;
    ``start`` [1]; ``out`` int32 [ROWS, 1]. Whole numbers, so that the order of the sums does not matter; needs VNNI.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if rows.dtype == types.float32:  # floats always come in panels: :func:`multiply` never gets here with them
            return context.get_dummy_value()
        arrays = [context.make_array(kind)(context, builder, value)
                  for kind, value in zip(signature.args, arguments, strict=True)]
        pointers = [builder.bitcast(array.data, _BYTES) for array in arrays]
        steps, stride = builder.extract_value(arrays[1].shape, 0), builder.extract_value(arrays[0].strides, 0)
        vector, size = ir.VectorType(_INT32, LANES), LANES * 4
        firsts = [builder.gep(pointers[0], [builder.mul(stride, _INT64(r))]) for r in range(ROWS)]
        before, body, after = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        step = _running(builder, _INT64, _INT64(0), before)
        old = [_running(builder, vector, ir.Constant(vector, [0] * LANES), before) for _ in range(ROWS)]
        offset = builder.mul(step, _INT64(size))
        part = _load(builder, vector, builder.gep(pointers[1], [offset]), 0)
        new = [_add_product(builder, vector, False, _load(builder, vector, builder.gep(first, [offset]), 0), part,
                            total)
               for first, total in zip(firsts, old, strict=True)]
        next_step = builder.add(step, _INT64(1))
        step.add_incoming(next_step, body)
        for total, longer in zip(old, new, strict=True):
            total.add_incoming(longer, body)
        builder.cbranch(builder.icmp_signed("<", next_step, steps), body, after)
        builder.position_at_end(after)
        across = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT32, [vector]),
                                                f"llvm.vector.reduce.add.v{LANES}i32")
        first_sum = builder.load(arrays[2].data)
        for r, total in enumerate(new):
            builder.store(builder.add(builder.call(across, [total]), first_sum),
                          builder.gep(arrays[3].data, [_INT64(r)]))
        return context.get_dummy_value()

    return types.void(rows, query, start, out), generate


_product_1, _product_2, _product_4 = _product(1), _product(2), _product(4)


@jit
def multiply(rows: Any, panel: Any, start: Any, out: Any) -> None:
    """``out[r, j] = start[j] + rows[r] . panel[:, j]``; shapes as in :func:`_product`, or for one column
    :func:`_product_alone`."""
    width = out.shape[1] // LANES
    if width == 0:
        _product_alone(rows, panel, start, out)
    elif width == 1:
        _product_1(rows, panel, start, out)
    elif width == 2:
        _product_2(rows, panel, start, out)
    else:
        _product_4(rows, panel, start, out)
