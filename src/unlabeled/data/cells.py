"""Compiled loops over packed cells: bits in, rescaled numbers out; see `packing` for the layout.

Rows of a cell are unpacked by vector instructions that are spelled out, for a compiler takes integers of 8 and 16 bits
for 64-bit ones and then needs ten times as long.  What they compute is `kernels.scale`, operation by operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

LANES = 16  # voxels of a cell along the last axis
ROWS = 8  # rows of so many voxels in a cell
LEAD = 2  # words of a chunk before the words of its cells
GUARD = 3 * LANES  # bytes after the last cell, which a row of 16 may touch
_BITS_OF_WIDTH = 5
_LEVELS = 1 << (16 - _BITS_OF_WIDTH)  # different smallest values in a chunk

_BYTE, _INT, _FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()


def _row(reach: int, *, cut: bool) -> Any:
    """Make the instructions for one row, whose bits lie in `reach` bytes at most; cut to some lanes or whole."""

    def typed(typing, memory, at, stride, shift, mask, base, numbers, out, to, first, last):  # type: ignore[no-untyped-def]
        place, word = types.int64, types.int32
        signature = types.void(
            memory, place, place, word, word, word, numbers, out, place, word, word
        )
        return signature, generate

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        memory, at, stride, shift, mask, base, numbers, out, to, first, last = values
        kinds = signature.args
        source = context.make_array(kinds[0])(context, builder, memory).data
        target = context.make_array(kinds[7])(context, builder, out).data
        word = _INT if reach > 2 else ir.IntType(16)

        def all_(value: Any, kind: Any = None) -> Any:
            if kind is not None and kind != value.type:
                value = builder.trunc(value, kind)
            empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
            one = builder.insert_element(empty, value, ir.Constant(_INT, 0))
            return builder.shuffle_vector(one, empty, _constant(_INT, [0] * LANES))

        bits = None
        for index in range(reach):
            pointer = builder.bitcast(builder.gep(source, [at]), _vector(_BYTE).as_pointer())
            byte = builder.zext(builder.load(pointer, align=1), _vector(word))
            byte = builder.shl(byte, _constant(word, [8 * index] * LANES))
            bits = byte if bits is None else builder.or_(bits, byte)
            at = builder.add(at, stride)
        value = builder.and_(builder.lshr(bits, all_(shift, word)), all_(mask, word))
        if word != _INT:
            value = builder.zext(value, _vector(_INT))
        value = builder.sitofp(builder.add(value, all_(base)), _vector(_FLOAT))
        slope, intercept, low, high, centre, factor, top = (
            all_(builder.extract_value(numbers, index)) for index in range(7)
        )
        value = builder.fadd(builder.fmul(value, slope), intercept)
        value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
        value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
        value = builder.fmul(builder.fsub(value, centre), factor)
        value = builder.select(builder.fcmp_ordered("<", value, top), value, top)
        pointer = builder.bitcast(builder.gep(target, [to]), _vector(_FLOAT).as_pointer())
        if cut:
            lane = _constant(_INT, list(range(LANES)))
            inside = builder.and_(
                builder.icmp_signed(">=", lane, all_(first)),
                builder.icmp_signed("<", lane, all_(last)),
            )
            _store_some(builder, value, pointer, inside)
        else:
            builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return intrinsic(typed)


def _vector(kind: Any) -> Any:
    return ir.VectorType(kind, LANES)


def _constant(kind: Any, values: list[int]) -> Any:
    return ir.Constant(_vector(kind), values)


def _store_some(builder: Any, value: Any, pointer: Any, inside: Any) -> None:
    """Store some lanes; the others are not touched."""
    name = "llvm.masked.store.v16f32.p0"
    arguments = [value.type, pointer.type, _INT, inside.type]
    store = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), arguments), name
    )
    builder.call(store, [value, pointer, ir.Constant(_INT, 4), inside])


_narrow_row = _row(2, cut=False)  # up to 8 bits
_wide_row = _row(3, cut=False)
_cut_row = _row(3, cut=True)


@njit(nogil=True, cache=True, error_model="numpy")
def unpack_crop(memory, words, table, space, cell, cells, low, corner, numbers, out, size):  # type: ignore[no-untyped-def]
    """Unpack and rescale a crop of one channel into a flat array; False if the memory is damaged.

    `words` is the same memory; `table` holds where the channel's chunks begin; the crop lies inside `space`.
    """
    grid = _count(space, cell)
    chunks = _count(grid, cells)
    edge = (cell[0] * cells[0], cell[1] * cells[1], cell[2] * cells[2])
    end = memory.size - GUARD
    for p in range(corner[0] // edge[0], (corner[0] + size[0] - 1) // edge[0] + 1):
        for q in range(corner[1] // edge[1], (corner[1] + size[1] - 1) // edge[1] + 1):
            for r in range(corner[2] // edge[2], (corner[2] + size[2] - 1) // edge[2] + 1):
                first = (p * cells[0], q * cells[1], r * cells[2])
                last = _ends(first, cells, grid)
                begin = table[(p * chunks[1] + q) * chunks[2] + r]
                at = begin + 2 * (LEAD + _many(first, last))
                if begin < 0 or begin & 1 or at > end:
                    return False
                word = begin >> 1
                lowest, step = low + np.int64(words[word]), np.int64(words[word + 1]) & 15
                word += LEAD
                for a in range(first[0], last[0]):
                    i = a * cell[0] - corner[0]
                    for b in range(first[1], last[1]):
                        j = b * cell[1] - corner[1]
                        for c in range(first[2], last[2]):
                            k = c * LANES - corner[2]
                            code = np.int64(words[word])
                            word += 1
                            width = code & ((1 << _BITS_OF_WIDTH) - 1)
                            lanes = min(LANES, space[2] - c * LANES)
                            here = at
                            at += width * lanes
                            if width > 16 or at > end:
                                return False
                            near, far = max(0, -k), min(LANES, size[2] - k)
                            if near >= far:
                                continue
                            base = np.int32(lowest + ((code >> _BITS_OF_WIDTH) << step))
                            mask = np.int32((1 << width) - 1)
                            for x in range(max(0, -i), min(cell[0], size[0] - i)):
                                for y in range(max(0, -j), min(cell[1], size[1] - j)):
                                    bit = (x * cell[1] + y) * width
                                    byte, shift = here + (bit >> 3) * lanes, np.int32(bit & 7)
                                    to = ((i + x) * size[1] + j + y) * size[2] + k
                                    row = (memory, byte, lanes, shift, mask, base, numbers, out)
                                    if far - near < LANES:
                                        _cut_row(*row, to, near, far)
                                    elif width > 8:
                                        _wide_row(*row, to, near, far)
                                    else:
                                        _narrow_row(*row, to, near, far)
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def pack_channel(volume, low, cell, cells, table, memory, words, at):  # type: ignore[no-untyped-def]
    """Pack one channel into memory from byte `at` on, fill in where its chunks begin, and give where it ends.

    Numbers are taken modulo 2**16, above `low`; `words` is the same memory.
    """
    space = volume.shape
    grid = _count(space, cell)
    chunks = _count(grid, cells)
    values = np.zeros((ROWS, LANES), np.uint16)
    bits = np.zeros(LANES, np.uint64)
    for p in range(chunks[0]):
        for q in range(chunks[1]):
            for r in range(chunks[2]):
                table[(p * chunks[1] + q) * chunks[2] + r] = at
                first = (p * cells[0], q * cells[1], r * cells[2])
                last = _ends(first, cells, grid)
                lowest, highest = np.uint16(65535), np.uint16(0)
                for x in range(first[0] * cell[0], min(last[0] * cell[0], space[0])):
                    for y in range(first[1] * cell[1], min(last[1] * cell[1], space[1])):
                        row = volume[x, y, first[2] * LANES : last[2] * LANES]
                        for z in range(row.size):
                            value = np.uint16(row[z] - low)
                            lowest, highest = min(lowest, value), max(highest, value)
                step = 0
                while (np.int64(highest) - np.int64(lowest)) >> step >= _LEVELS:
                    step += 1
                word = at >> 1
                words[word], words[word + 1] = lowest, step
                word += LEAD
                at += 2 * (LEAD + _many(first, last))
                for a in range(first[0], last[0]):
                    for b in range(first[1], last[1]):
                        for c in range(first[2], last[2]):
                            lanes = min(LANES, space[2] - c * LANES)
                            smallest = _copy_cell(volume, low, (a, b, c), cell, values)
                            level = (np.int64(smallest) - np.int64(lowest)) >> step
                            width = _subtract(values, np.int64(lowest) + (level << step))
                            words[word] = level << _BITS_OF_WIDTH | width
                            word += 1
                            _write_bits(values, width, lanes, bits, memory, at)
                            at += width * lanes
                at += at & 1
    return at


@njit(nogil=True, inline="always")
def _count(extent, edge):  # type: ignore[no-untyped-def]
    return (
        (extent[0] + edge[0] - 1) // edge[0],
        (extent[1] + edge[1] - 1) // edge[1],
        (extent[2] + edge[2] - 1) // edge[2],
    )


@njit(nogil=True, inline="always")
def _ends(first, edge, extent):  # type: ignore[no-untyped-def]
    return (
        min(first[0] + edge[0], extent[0]),
        min(first[1] + edge[1], extent[1]),
        min(first[2] + edge[2], extent[2]),
    )


@njit(nogil=True, inline="always")
def _many(first, last):  # type: ignore[no-untyped-def]
    return (last[0] - first[0]) * (last[1] - first[1]) * (last[2] - first[2])


@njit(nogil=True, cache=True)
def _copy_cell(volume, low, place, cell, values):  # type: ignore[no-untyped-def]
    """Copy a cell and give its smallest value; its first value stands for what lies beyond the volume."""
    first = (place[0] * cell[0], place[1] * cell[1], place[2] * LANES)
    last = _ends(first, (cell[0], cell[1], LANES), volume.shape)
    if _many(first, last) < ROWS * LANES:
        values[:] = np.uint16(volume[first[0], first[1], first[2]] - low)
    for x in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            row = volume[x, y, first[2] : last[2]]
            target = values[(x - first[0]) * cell[1] + y - first[1]]
            for z in range(row.size):
                target[z] = np.uint16(row[z] - low)
    smallest = np.uint16(65535)
    for row in range(ROWS):
        for lane in range(LANES):
            smallest = min(smallest, values[row, lane])
    return smallest


@njit(nogil=True, cache=True)
def _subtract(values, base):  # type: ignore[no-untyped-def]
    """Subtract a number from a cell and give the bits that the largest difference needs."""
    used = np.uint16(0)
    for row in range(ROWS):
        for lane in range(LANES):
            values[row, lane] -= np.uint16(base)
            used |= values[row, lane]
    width = 0
    while np.int64(used) >> width:
        width += 1
    return width


@njit(nogil=True, cache=True)
def _write_bits(values, width, lanes, bits, memory, at):  # type: ignore[no-untyped-def]
    if width <= 8:  # all rows of a lane fit into one number
        for lane in range(LANES):
            bits[lane] = 0
        for row in range(ROWS):
            for lane in range(LANES):
                bits[lane] |= np.uint64(values[row, lane]) << np.uint64(row * width)
        for byte in range(width):
            for lane in range(lanes):
                memory[at + byte * lanes + lane] = np.uint8(bits[lane] >> np.uint64(8 * byte))
        return
    memory[at : at + width * lanes] = 0
    for row in range(ROWS):
        bit = row * width
        for lane in range(lanes):
            rest = np.uint64(values[row, lane]) << np.uint64(bit & 7)
            to = at + (bit >> 3) * lanes + lane
            while rest:
                memory[to] |= np.uint8(rest & np.uint64(255))
                rest >>= np.uint64(8)
                to += lanes
