"""Integers packed into as many bits as their neighbourhood needs, so that random crops are cheap to read.

Scans are noisy, so general compressors find little in them, and undoing their byte shuffling costs more than all the
rest of a crop.  Here a cell of 256 neighbouring voxels keeps its smallest value and the differences to it in as many
bits as the largest one has.  Sixteen voxels along the last axis lie beside each other in 16-bit words, so unpacking is
shifts of whole vectors, and the crop is cut and rescaled in the same pass.  128 cells make a chunk, which blosc2
compresses on top where that pays: in empty and constant regions.

Layout: a table of 64-bit numbers says where each chunk begins [byte], with the lowest bit set if blosc2 compressed it,
and where the last one ends; a chunk is 16-bit words: the smallest values of its cells, their widths (two to a word),
their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import blosc2
import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from unlabeled.data.kernels import Scaling, scale

LANES = 16  # voxels of a cell along the last axis
ROWS = 16  # rows of so many voxels in a cell
CELLS = 128  # in a chunk
_HEAD = CELLS + CELLS // 2  # words of a chunk before its bits
_MOST = _HEAD + CELLS * ROWS * LANES  # words of a chunk at most
_WORTH = 0.97  # compress a chunk when it shrinks below this, for reading costs more then
_ONE_THREAD: dict[str, Any] = {"nthreads": 1}  # starting threads costs more than a chunk


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array of one channel is cut: cells of 256 voxels, chunks of 128 cells.

    Parameters
    ----------
    space
        Voxels along three axes; pictures have a first axis of one.
    """

    space: tuple[int, int, int]

    @classmethod
    def of(cls, space: Sequence[int]) -> Layout:
        """Lay out an array with two or three axes of space."""
        first, second, third = (1,) * (3 - len(space)) + tuple(space)
        return cls((first, second, third))

    @property
    def cell(self) -> tuple[int, int, int]:
        """Voxels of a cell along each axis."""
        return (1, ROWS, LANES) if self.space[0] < 4 else (4, 4, LANES)

    @property
    def cells(self) -> tuple[int, int, int]:
        """Cells of a chunk along each axis."""
        return (1, 8, 16) if self.space[0] < 4 else (8, 8, 2)

    @property
    def chunk(self) -> tuple[int, int, int]:
        """Voxels of a chunk along each axis."""
        first, second, third = (a * b for a, b in zip(self.cell, self.cells, strict=True))
        return first, second, third

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Chunks along each axis."""
        first, second, third = (-(-a // b) for a, b in zip(self.space, self.chunk, strict=True))
        return first, second, third


def can_pack(array: NDArray[Any]) -> bool:
    """Tell whether an array ``channel *space`` is made of integers that packing suits."""
    if array.dtype.kind not in "iu" or array.ndim not in (3, 4) or array.shape[-1] < LANES // 2:
        return False
    low, high = int(array.min()), int(array.max())
    return high - low < 2**16 and max(-low, high) < 2**23  # float32 holds them exactly


def pack(array: NDArray[Any], low: int) -> list[bytes]:
    """Pack an array.

    Parameters
    ----------
    array
        ``channel *space``, contiguous integers.
    low
        Its smallest value.

    Returns
    -------
    list of bytes
        The table of chunks, then the chunks.
    """
    layout = Layout.of(array.shape[1:])
    volumes = array.reshape(len(array), *layout.space)
    begin = 8 * (len(array) * prod(layout.chunks) + 1)
    table, parts = [], []
    words = np.empty(_MOST, np.uint16)
    for volume in volumes:
        for place in product(*map(range, layout.chunks)):
            first = tuple(index * edge for index, edge in zip(place, layout.chunk, strict=True))
            count = _pack_chunk(volume, first, layout.cell, layout.cells, low, words)
            plain = words[:count].tobytes()
            small = _compress(plain, blosc2.Codec.LZ4)
            if len(small) < _WORTH * len(plain):
                small = min(small, _compress(plain, blosc2.Codec.ZSTD), key=len)
            compressed = len(small) < _WORTH * len(plain)
            if compressed:
                plain = small + bytes(len(small) % 2)
            table.append(begin + compressed)
            parts.append(plain)
            begin += len(plain)
    table.append(begin)
    return [np.asarray(table, "<i8").tobytes(), *parts]


class Packed:
    """Reads crops from a packed array in memory, usually mapped from a file.

    Parameters
    ----------
    memory
        From the first byte of what `pack` gave.
    channels, space
        Shape of the array.
    low
        Its smallest value.
    """

    def __init__(self, memory: memoryview, channels: int, space: Sequence[int], low: int) -> None:
        self.layout = Layout.of(space)
        self.channels = channels
        self.low = low
        self.memory = memory
        self.per_channel = prod(self.layout.chunks)
        self.table = np.frombuffer(memory, "<i8", channels * self.per_channel + 1)

    def read(
        self, channel: int, start: Sequence[int], out: NDArray[np.float32], scaling: Scaling
    ) -> None:
        """Read a crop of one channel.

        Parameters
        ----------
        channel
            Which.
        start
            First voxel along each axis of space.
        out
            ``*size``, contiguous.
        scaling
            As `kernels.scaling` gives it.

        Raises
        ------
        ValueError, RuntimeError
            If the array is damaged.
        """
        layout = self.layout
        lifted = (1,) * (3 - out.ndim)
        corner = np.array((0,) * len(lifted) + tuple(start), np.int64)
        size = lifted + out.shape
        edges = zip(corner.tolist(), size, layout.chunk, strict=True)
        reach = [
            range(first // edge, -(-(first + length) // edge)) for first, length, edge in edges
        ]
        places = np.array(list(product(*reach)), np.int64)
        numbers = np.ravel_multi_index(tuple(places.T), layout.chunks) + channel * self.per_channel
        begins = self.table[numbers]
        words = np.frombuffer(self.memory, np.uint16, len(self.memory) // 2)
        plain = begins & 1 == 0
        rest = (corner, layout.cell, layout.cells, self.low, scaling, out.reshape(-1), size)
        whole = True
        if plain.any():
            whole = _unpack(words, begins[plain] >> 1, places[plain], *rest)
        if not plain.all():
            numbers, places = numbers[~plain], places[~plain]
            unpacked = np.empty((len(numbers), _MOST), np.uint16)
            for row, number in zip(unpacked, numbers, strict=True):
                begin, end = int(self.table[number]) - 1, int(self.table[number + 1]) & ~1
                blosc2.decompress2(self.memory[begin:end], dst=row, **_ONE_THREAD)
            where = np.arange(len(numbers)) * _MOST
            whole = _unpack(unpacked.reshape(-1), where, places, *rest) and whole
        if not whole:
            raise ValueError("the packed array is damaged")


def _compress(plain: bytes, codec: blosc2.Codec) -> bytes:
    coding: dict[str, Any] = {
        "codec": codec,
        "clevel": 1,
        "typesize": 2,
        "filters": [blosc2.Filter.NOFILTER],
        "nthreads": 1,
    }
    small: bytes = blosc2.compress2(plain, **coding)  # type: ignore[assignment]
    return small


@njit(nogil=True, cache=True)
def _pack_chunk(volume, first, cell, cells, low, words):  # type: ignore[no-untyped-def]
    words[:_HEAD] = 0
    differences = np.zeros((ROWS, LANES), np.uint16)
    at = _HEAD
    number = 0
    for a in range(cells[0]):
        for b in range(cells[1]):
            for c in range(cells[2]):
                i, j, k = first[0] + a * cell[0], first[1] + b * cell[1], first[2] + c * cell[2]
                smallest, width = _difference(volume, i, j, k, cell, low, differences)
                words[number] = smallest
                words[CELLS + (number >> 1)] |= width << (8 * (number & 1))
                number += 1
                words[at : at + width * LANES] = 0
                for row in range(ROWS):
                    bit = row * width
                    word, shift = at + (bit >> 4) * LANES, bit & 15
                    for lane in range(LANES):
                        value = np.uint32(differences[row, lane]) << np.uint32(shift)
                        words[word + lane] |= np.uint16(value & 0xFFFF)
                        if shift + width > 16:
                            words[word + LANES + lane] |= np.uint16(value >> 16)
                at += width * LANES
    return at


@njit(nogil=True, cache=True)
def _difference(volume, i, j, k, cell, low, differences):  # type: ignore[no-untyped-def]
    """Fill in a cell's differences to its smallest value, 0 beyond the volume; give that value and the bits."""
    ends = (
        min(cell[0], volume.shape[0] - i),
        min(cell[1], volume.shape[1] - j),
        min(cell[2], volume.shape[2] - k),
    )
    if min(ends) <= 0:
        differences[:] = 0
        return 0, 0
    smallest = largest = np.int64(volume[i, j, k])
    for x in range(ends[0]):
        for y in range(ends[1]):
            for z in range(ends[2]):
                value = np.int64(volume[i + x, j + y, k + z])
                smallest, largest = min(smallest, value), max(largest, value)
    if ends[0] * ends[1] * ends[2] < ROWS * LANES:
        differences[:] = 0
    for x in range(ends[0]):
        for y in range(ends[1]):
            for z in range(ends[2]):
                value = np.int64(volume[i + x, j + y, k + z])
                differences[x * cell[1] + y, z] = np.uint16(value - smallest)
    width = 0
    while (largest - smallest) >> width:
        width += 1
    return smallest - low, width


def _typed_take_bits(typing_context, near, far, shift, rest, mask):  # type: ignore[no-untyped-def]
    """``((near >> shift) | (far << rest)) & mask`` in 16 bits: plain expressions would widen to 64 and be slow."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        near, far, shift, rest, mask = values
        both = builder.or_(builder.lshr(near, shift), builder.shl(far, rest))
        return builder.and_(both, mask)

    word = types.uint16
    return word(word, word, word, word, word), generate


_take_bits: Any = intrinsic(_typed_take_bits)


@njit(nogil=True, inline="always")
def _unpack_row(words, word, shift, width, base, scaling, out, to):  # type: ignore[no-untyped-def]
    mask = np.uint16((1 << width) - 1)
    # A row that ends in its first word takes nothing from the second, and a shift by 16 bits is not defined.
    next_ = word + np.uint64(LANES if shift + width > 16 else 0)
    rest = np.uint16((16 - shift) & 15)
    right = np.uint16(shift)
    for lane in range(np.uint64(LANES)):
        value = _take_bits(words[word + lane], words[next_ + lane], right, rest, mask)
        out[to + lane] = scale(np.float32(value) + base, scaling)


@njit(nogil=True, cache=True, error_model="numpy")
def _unpack(words, where, places, corner, cell, cells, low, scaling, out, size):  # type: ignore[no-untyped-def]
    edge = np.empty(LANES, np.float32)  # a row that the crop cuts
    for index in range(len(where)):
        begin = where[index]
        at = begin + _HEAD
        if begin < 0 or at > words.size:
            return False
        number = -1
        for a in range(cells[0]):
            i = (places[index, 0] * cells[0] + a) * cell[0] - corner[0]
            for b in range(cells[1]):
                j = (places[index, 1] * cells[1] + b) * cell[1] - corner[1]
                for c in range(cells[2]):
                    k = (places[index, 2] * cells[2] + c) * cell[2] - corner[2]
                    number += 1
                    base = np.float32(np.int64(words[begin + number]) + low)
                    widths = np.int64(words[begin + CELLS + (number >> 1)])
                    width = widths >> (8 * (number & 1)) & 255
                    if width > 16 or at + width * LANES > words.size:
                        return False
                    first, last = max(0, -k), min(LANES, size[2] - k)
                    if first < last:
                        for x in range(max(0, -i), min(cell[0], size[0] - i)):
                            for y in range(max(0, -j), min(cell[1], size[1] - j)):
                                bit = (x * cell[1] + y) * width
                                word, shift = np.uint64(at + (bit >> 4) * LANES), bit & 15
                                to = ((i + x) * size[1] + j + y) * size[2] + k
                                if last - first == LANES:
                                    _unpack_row(
                                        words, word, shift, width, base, scaling, out, np.uint64(to)
                                    )
                                else:
                                    _unpack_row(
                                        words, word, shift, width, base, scaling, edge, np.uint64(0)
                                    )
                                    for lane in range(first, last):
                                        out[to + lane] = edge[lane]
                    at += width * LANES
    return True
