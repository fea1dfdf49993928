"""NumPy arrays (``.npy``): no geometry, no names, so the axes are told apart by their number.

=====  =====================================================================
axes   taken as
=====  =====================================================================
2      picture, (rows, columns)
3      colour picture when of uint8 with a last axis of 3 or 4; else a volume
4      channels first, when the first axis has at most 4 entries
=====  =====================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats.contents import Stored, guarded, plain_dtype
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

MOST_CHANNELS = 4


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the header; see `Reader`."""
    with guarded(file.path, "a NumPy array"):
        return _describe(_open(file.path), file.path)


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read header and voxels; see `Reader`."""
    with guarded(file.path, "a NumPy array"):
        array = _open(file.path)
        stored = _describe(array, file.path)
        if stored.colour:
            array = np.moveaxis(array[..., :3], -1, 0)
        return stored, array if array.ndim > len(stored.shape) else array[None]


def _open(path: Path) -> NDArray[Any]:
    """Map the file; nothing that it could execute is unpickled."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _describe(array: NDArray[Any], path: Path) -> Stored:
    kind = plain_dtype(array.dtype, path)
    if not array.size:
        raise ScanError(f"{path} holds no voxels (shape {array.shape})", "Save the array again.")
    if array.ndim == 3 and array.dtype == np.uint8 and array.shape[-1] in (3, 4):
        return Stored(shape=array.shape[:2], dtype=kind, channels=3, colour=True)
    if array.ndim in (2, 3):
        return Stored(shape=array.shape, dtype=kind)
    if array.ndim == 4 and array.shape[0] <= MOST_CHANNELS:
        return Stored(shape=array.shape[1:], dtype=kind, channels=array.shape[0])
    raise ScanError(
        f"{path} has {array.ndim} axes (shape {array.shape}), neither picture nor volume",
        f"Save 2 or 3 axes of space; channels, at most {MOST_CHANNELS}, go first.",
    )
