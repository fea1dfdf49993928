"""Integers packed into as many bits as their neighbourhood needs, so that random crops are cheap to read.

Scans are noisy, so general compressors find little in them, and undoing their byte shuffling costs more than all the
rest of a crop.  Here a cell of 128 neighbouring voxels keeps its smallest value and the differences to it in as many
bits as the largest one has.  A crop is unpacked, cut and rescaled in one pass.

Layout: a table of 64-bit numbers says where each chunk begins [byte].  A chunk is up to 256 cells.  Its 16-bit words are
its smallest value above `lowest`, a step, and for each cell the number of bits (5) and the cell's smallest
value above the chunk's (11), in units of two to the power of the step.  The bits of its cells follow.  A cell is 8 rows of
16 voxels along the last axis, fewer at the end of the array.  The bits of a column of rows follow each other; the first
bytes of all columns lie side by side, then their second bytes, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.cells import GUARD, LANES, LEAD, ROWS, pack_channel, unpack_crop
from unlabeled.data.kernels import Scaling

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array is cut into cells of 128 voxels and chunks of 256 cells; each channel by itself.

    Parameters
    ----------
    space
        Voxels along three axes; pictures have a first axis of one.
    cell
        Voxels of a cell along each axis.
    cells
        Cells of a chunk along each axis.
    chunks
        Chunks of a channel.
    most
        Bytes of a packed channel at most.
    """

    space: Triple
    cell: Triple
    cells: Triple
    chunks: int
    most: int


@lru_cache(maxsize=512)
def lay_out(shape: tuple[int, ...]) -> Layout:
    """Lay out an array ``channel *space`` with two or three axes of space."""
    first, second, third = (1,) * (4 - len(shape)) + shape[1:]
    space = (first, second, third)
    cell, cells = ((4, 2, LANES), (8, 16, 2)) if first >= 4 else ((1, ROWS, LANES), (1, 16, 16))
    edges = list(zip(space, cell, cells, strict=True))
    number = prod(-(-extent // edge) for extent, edge, _ in edges)
    chunks = prod(-(-extent // (edge * many)) for extent, edge, many in edges)
    most = 2 * number * (1 + ROWS * LANES) + chunks * (8 + 2 * LEAD + 2)
    return Layout(space, cell, cells, chunks, most)


def lowest(array: NDArray[Any]) -> int | None:
    """Give a number that no element is below, from which packing counts; None where packing does not suit.

    >>> lowest(np.zeros((1, 20, 20), np.int16)), lowest(np.zeros((1, 20, 20), np.float32))
    (-32768, None)
    """
    if array.dtype.kind not in "iu" or array.ndim not in (3, 4) or array.shape[-1] < LANES // 2:
        return None
    if array.itemsize <= 2:
        return int(np.iinfo(array.dtype).min)
    low, high = int(array.min()), int(array.max())
    return low if high - low < 2**16 and max(-low, high) < 2**23 else None  # exact in float32


def pack(array: NDArray[Any], low: int) -> memoryview:
    """Pack an array.

    Parameters
    ----------
    array
        ``channel *space``, contiguous integers.
    low
        As `lowest` gives it.

    Returns
    -------
    memoryview
        The table of chunks, then the chunks [byte].
    """
    layout = lay_out(array.shape)
    memory = np.empty(array.shape[0] * layout.most + GUARD, np.uint8)
    table = np.empty((array.shape[0], layout.chunks), "<i8")
    end = table.nbytes
    # Differences below 2**16 are exact modulo 2**16, so one compiled loop does for all types.
    same = array.view(np.uint16) if array.itemsize == 2 else array.astype(np.uint16)
    cut = (np.uint16(low % 2**16), layout.cell, layout.cells)
    for volume, begins in zip(same.reshape(-1, *layout.space), table, strict=True):
        end = pack_channel(volume, *cut, begins, memory, memory.view("<u2"), end)
    memory[: table.nbytes] = table.reshape(-1).view(np.uint8)
    memory[end : end + GUARD] = 0
    return memory[: end + GUARD].data


class Packed(NamedTuple):
    """A packed array as it lies in memory, seen as what the compiled loop takes."""

    memory: NDArray[np.uint8]
    words: NDArray[np.uint16]  # the same memory
    begins: NDArray[np.int64]  # channel chunk: where it begins [byte]
    layout: Layout


def view_packed(packed: memoryview, shape: Sequence[int]) -> Packed:
    """View what `pack` gave, usually mapped from a file; no number is read.

    Parameters
    ----------
    packed
        As `pack` gave it.
    shape
        ``channel *space`` of the array.

    Raises
    ------
    ValueError
        If it is too short.
    """
    layout = lay_out(tuple(shape))
    memory = np.frombuffer(packed, np.uint8)
    words = memory[: len(memory) // 2 * 2].view("<u2")
    table = np.frombuffer(packed, "<i8", shape[0] * layout.chunks)
    return Packed(memory, words, table.reshape(shape[0], layout.chunks), layout)


def unpack(
    packed: Packed,
    low: int,
    start: Sequence[int],
    scalings: Sequence[Scaling],
    out: NDArray[np.float32],
) -> None:
    """Unpack a crop of all channels and rescale it.

    Parameters
    ----------
    packed
        The array.
    low
        As `pack` got it.
    start
        First voxel along each axis of space; the crop lies inside.
    scalings
        One a channel, as `kernels.scaling` gives them.
    out
        ``channel *size``, contiguous; receives the crop.

    Raises
    ------
    ValueError
        If the packed array is damaged.
    """
    memory, words, begins, layout = packed
    lifted = 3 - len(start)  # pictures have a first axis of one
    corner, size = (0,) * lifted + tuple(start), (1,) * lifted + out.shape[1:]
    cut = (layout.space, layout.cell, layout.cells, low, corner)
    for channel, numbers in enumerate(scalings):
        flat = out[channel].reshape(-1)
        if not unpack_crop(memory, words, begins[channel], *cut, numbers, flat, size):
            raise ValueError("the packed array is damaged")
