"""Compressed arrays: how they are cut into chunks, written, and read in part."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from unlabeled.data.kernels import AS_STORED, Scaling, rescale
from unlabeled.data.packing import Packed, lowest, pack, unpack, view_packed
from unlabeled.errors import DataError

BLOCK = {1: (4096,), 2: (64, 64), 3: (16, 16, 16)}  # voxels that are decompressed together
CHUNK = {
    1: (65536,),
    2: (512, 512),
    3: (64, 64, 64),
}  # voxels that share an entry of the frame's table
SMALL = 65536  # [byte]; a frame of at most this size is kept in memory once read, as opening it costs more than its voxels
_KEPT = 256  # small frames that a process keeps
SMALL_PACKED = 512 * 1024  # [byte]; a packed array of at most this size is kept, as it was packed
_KEPT_PACKED = 128  # such arrays that a process keeps: 64 MiB at most
_GONE = "Run the command again: it is prepared anew. Do not prune the cache during a run."


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of the prepared store, read in part; holds no voxels and no open file itself.

    Parameters
    ----------
    path
        File of the store that contains it.
    offset, length
        Where it lies in the file [byte].
    shape
        ``channel *space``.
    dtype
        Type of the stored numbers.
    low
        What the numbers of a packed array are counted from; None for a blosc2 frame.
    """

    path: Path
    offset: int
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: int | None

    def read(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        """Read a patch of all channels.

        Parameters
        ----------
        start, size
            First voxel and edge lengths along the axes of space [voxel]; inside the array.

        Returns
        -------
        NDArray
            ``channel *size``, contiguous, the stored numbers.

        Raises
        ------
        DataError
            If the file has gone from the cache or is damaged.
        """
        if self.low is None:
            return self._read_frame(start, size)
        return self.read_scaled(start, size, [AS_STORED] * self.shape[0]).astype(self.dtype)

    def read_scaled(
        self,
        start: Sequence[int],
        size: Sequence[int],
        scalings: Sequence[Scaling],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Read a patch and rescale it, in one pass where the array is packed.

        Parameters
        ----------
        start, size
            As in `read`.
        scalings
            One a channel.
        out
            ``channel *size``, contiguous; receives the patch and is returned; made when None.
        """
        if out is None:
            out = np.empty((self.shape[0], *size), np.float32)
        if self.low is None:
            for values, target, numbers in zip(
                self._read_frame(start, size), out, scalings, strict=True
            ):
                rescale(values, target, numbers)
            return out
        self._check(start, size)
        try:
            whole = _small_packed if self.length <= SMALL_PACKED else _mapped
            packed = whole(self.path, self.offset, self.length, self.shape)
            unpack(packed, self.low, start, scalings, out)
        except (OSError, RuntimeError, ValueError) as fault:
            raise gone(self.path.parent.parent) from fault
        return out

    def whole(self) -> NDArray[Any]:
        """Read the whole array, ``channel *space``."""
        return self.read((0,) * (len(self.shape) - 1), self.shape[1:])

    def _read_frame(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        self._check(start, size)
        cut = tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))
        try:
            if math.prod(self.shape) * self.dtype.itemsize <= SMALL:
                return _small_frame(self.path, self.offset)[(slice(None), *cut)].copy()
            patch: NDArray[Any] = _open_frame(self.path, self.offset)[(slice(None), *cut)]
        except (OSError, RuntimeError, ValueError) as fault:
            raise gone(self.path.parent.parent) from fault
        return patch

    def _check(self, start: Sequence[int], size: Sequence[int]) -> None:
        space = self.shape[1:]
        if not within(start, size, space):
            raise ValueError(f"a patch at {tuple(start)} of {tuple(size)} voxels is not in {space}")


def within(start: Sequence[int], size: Sequence[int], space: Sequence[int]) -> bool:
    """Tell whether a patch of at least one voxel lies in a space."""
    if not len(start) == len(size) == len(space):
        return False
    for begin, length, edge in zip(start, size, space, strict=True):
        if not (begin >= 0 and length >= 1 and begin + length <= edge):
            return False
    return True


def _open_frame(path: Path, offset: int) -> Any:
    mapping: dict[str, Any] = {"mmap_mode": "r", "dparams": {"nthreads": 1}}
    return blosc2.open(str(path), mode="r", offset=offset, **mapping)


@lru_cache(maxsize=_KEPT)
def _small_frame(path: Path, offset: int) -> NDArray[Any]:
    """Read a whole frame; a file of the store never changes, so what was read once stays true."""
    whole: NDArray[Any] = _open_frame(path, offset)[()]
    return whole


def _mapped(path: Path, offset: int, length: int, shape: tuple[int, ...]) -> Packed:
    """Map a packed array into memory: of a large one, a crop touches few pages."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(handle)
    return view_packed(memoryview(mapped)[offset : offset + length], shape)


@lru_cache(maxsize=_KEPT_PACKED)
def _small_packed(path: Path, offset: int, length: int, shape: tuple[int, ...]) -> Packed:
    """Read a whole packed array, still packed; what holds of `_small_frame` holds here."""
    with path.open("rb") as file:
        file.seek(offset)
        return view_packed(memoryview(file.read(length)), shape)


def encode(array: NDArray[Any]) -> tuple[bytes | memoryview, int | None]:
    """Compress an array so that small random crops are cheap to read.

    Scans and masks are packed (see `packing`); floating-point numbers and what is not laid out in space become
    a blosc2 frame.

    Parameters
    ----------
    array
        ``channel *space``; any numbers.

    Returns
    -------
    tuple
        The bytes, and what `StoredArray` calls `low`.
    """
    array = np.ascontiguousarray(array)
    low = lowest(array)
    if low is not None:
        return pack(array, low), low
    space = array.shape[1:]
    shuffle = blosc2.Filter.SHUFFLE if array.dtype.kind == "f" else blosc2.Filter.BITSHUFFLE
    chunks = (1, *map(min, CHUNK.get(len(space), space), space))
    blocks = (1, *map(min, BLOCK.get(len(space), space), space))
    coding = {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [shuffle], "nthreads": 1}
    frame: Any = blosc2.asarray(
        array, chunks=chunks, blocks=blocks, cparams=coding, dparams={"nthreads": 1}
    )
    return frame.to_cframe(), None


def gone(folder: Path | str) -> DataError:
    """Say that what was prepared is no longer whole."""
    return DataError(f"a prepared scan in {folder} has gone or is damaged", _GONE)
