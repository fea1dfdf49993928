"""Compressed arrays: how they are cut into chunks, written, and read in part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import DataError

BLOCK = {1: (4096,), 2: (64, 64), 3: (16, 16, 16)}  # voxels that are decompressed together
CHUNK = {
    1: (65536,),
    2: (512, 512),
    3: (64, 64, 64),
}  # voxels that share an entry of the file's table


def compress(array: NDArray[Any]) -> bytes:
    """Compress an array so that small random crops are cheap to read.

    Parameters
    ----------
    array
        ``channel *space``; any numbers.

    Returns
    -------
    bytes
        A blosc2 frame.
    """
    space = array.shape[1:]
    shuffle = blosc2.Filter.SHUFFLE if array.dtype.kind == "f" else blosc2.Filter.BITSHUFFLE
    chunks = (1, *map(min, CHUNK.get(len(space), space), space))
    blocks = (1, *map(min, BLOCK.get(len(space), space), space))
    frame: bytes = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=blocks,
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [shuffle], "nthreads": 1},
        dparams={"nthreads": 1},
    ).to_cframe()
    return frame


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of the prepared store, read in part; holds no voxels and no open file.

    Parameters
    ----------
    path
        File of the store that contains it.
    offset
        Where its frame begins [byte].
    shape
        ``channel *space``.
    dtype
        Type of the stored numbers.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
        """Read a patch of all channels.

        Parameters
        ----------
        start, size
            First voxel and edge lengths along the axes of space [voxel]; inside the array.

        Returns
        -------
        NDArray
            ``channel *size``, contiguous.

        Raises
        ------
        DataError
            If the file has gone from the cache or is damaged.
        """
        space = self.shape[1:]
        inside = len(start) == len(size) == len(space) and all(
            first >= 0 and edge > 0 and first + edge <= extent
            for first, edge, extent in zip(start, size, space, strict=True)
        )
        if not inside:
            raise ValueError(
                f"patch at {tuple(start)} of {tuple(size)} voxels is not inside {space}"
            )
        cut = tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))
        try:
            array = blosc2.open(
                str(self.path), mode="r", offset=self.offset, mmap_mode="r", dparams={"nthreads": 1}
            )
            patch: NDArray[Any] = array[(slice(None), *cut)]
        except (OSError, RuntimeError, ValueError) as fault:
            raise DataError(
                f"a prepared scan in {self.path.parent.parent} has gone or is damaged",
                "Run the command again: damaged scans are prepared anew. Do not prune the cache during a run.",
            ) from fault
        return patch

    def whole(self) -> NDArray[Any]:
        """Read the whole array, ``channel *space``."""
        return self.read((0,) * (len(self.shape) - 1), self.shape[1:])

    @property
    def voxels(self) -> int:
        """Numbers in the array, over all channels."""
        return prod(self.shape)
