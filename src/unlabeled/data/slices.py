"""Slices as units of data: one plane of a volume, or a picture, with what was prepared beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.record import Record, _overlap
from unlabeled.data.sampling import draw_start
from unlabeled.errors import DataError


class Slice(NamedTuple):
    """An axial plane of a volume (last axis of RAS), or a picture, whose plane is 0."""

    record: Record
    plane: int

    def draw_start(self, size: Sequence[int], rng: Generator) -> tuple[int, int]:
        """Draw where a patch ``rows columns`` starts; negative where the slice is smaller."""
        first, second = draw_start(self.record.space[:2], size, rng)
        return first, second

    def patch(self, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """Read a patch, ``channel rows columns``, under the record's intensity rule."""
        return self.record.patch(*self._box(start, size)).reshape(-1, *size)

    def labels(self, name: str, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """Read a patch of a label map of the preparation, ``rows columns`` int64, 0 beyond the slice."""
        return extra_patch(self.record, name, *self._box(start, size)).reshape(*size)

    def _box(
        self, start: Sequence[int], size: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        flat = self.record.dims == 2
        return (*start, *(() if flat else (self.plane,))), (*size, *(() if flat else (1,)))


def list_slices(
    records: Sequence[Record], counts: str, without: Collection[int] = ()
) -> list[Slice]:
    """List the slices of scans of which a preparation counted something.

    Parameters
    ----------
    records
        Scans.
    counts
        Name among `Record.extras` of how many there are, a number a slice.
    without
        Labels of the masks: slices that hold one of them are left out.

    Raises
    ------
    DataError
        A scan has no mask, and labels are to be left out.
    """
    listed = []
    for record in records:
        usable = record.extras[counts].whole().reshape(-1) > 0
        if without:
            usable &= ~planes_holding(record, without)
        listed += [Slice(record, int(plane)) for plane in np.flatnonzero(usable)]
    return listed


def extra_patch(record: Record, name: str, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Read a patch of a label map that a preparation added, ``*size`` int64, 0 beyond the scan.

    Parameters
    ----------
    record
        A scan.
    name
        Of the map among `Record.extras`; it lies on the scan's grid.
    start
        First voxel along each axis of space; may be negative or beyond the scan.
    size
        Edge lengths [voxel].
    """
    out = np.zeros(tuple(size), np.int64)
    read = _overlap(start, size, record.space)
    if read is not None:
        first, edges, where = read
        out[where] = record.extras[name].read(first, edges)[0]
    return torch.from_numpy(out)


def planes_holding(record: Record, labels: Collection[int]) -> NDArray[np.bool_]:
    """Tell which planes of a scan hold one of some labels, ``plane``.

    Raises
    ------
    DataError
        The scan has no mask.
    """
    if record.mask is None:
        raise DataError(
            f"{record.source.name} has no mask that says what its slices hold",
            "Give a manifest with a column `mask`.",
        )
    held = np.isin(record.mask.whole()[0], list(labels))
    planes = held if record.dims == 3 else held[..., None]
    return np.asarray(planes.any(axis=(0, 1)))
