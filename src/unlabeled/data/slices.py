"""Slices as units of data: one plane of a volume, or a picture, with what was prepared beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.formats.geometry import axes_to_ras, spacing_of
from unlabeled.data.record import Record, _overlap
from unlabeled.data.sampling import centre_start, draw_start
from unlabeled.errors import DataError

THICK = 1.5  # times a pixel's edge: slices that are thicker are those that were acquired
THICKER = 1.2  # times the next longest edge of a voxel: a stack's slices lie that way


class Slice(NamedTuple):
    """An axial plane of a volume (last axis of RAS), or a picture, whose plane is 0."""

    record: Record
    plane: int

    def draw_start(self, size: Sequence[int], rng: Generator) -> tuple[int, int]:
        """Draw where a patch ``rows columns`` starts; negative where the slice is smaller."""
        first, second = draw_start(self.record.space[:2], size, rng)
        return first, second

    def centre(self, size: Sequence[int]) -> Tensor:
        """Read the patch in the middle of the slice, cut or padded to ``channel rows columns``."""
        return self.patch(centre_start(self.record.space[:2], size), size)

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


def slice_axis(record: Record) -> int:
    """Find the axis of a volume along which its slices are counted: that of the longest voxel edge, else the file's third.

    2 for a picture.
    """
    affine = record.grid.affine
    if record.dims == 2 or affine is None:
        return 2
    edges = spacing_of(affine)
    longest = int(np.argmax(edges))
    thick = edges[longest] > THICKER * sorted(edges)[1]
    order, _ = axes_to_ras(affine)
    return order.index(longest if thick else 2)


def flat_axis(record: Record) -> int:
    """Find the axis that a flat network's patches of a volume are one voxel thick along; 2 for a picture.

    The last axis of RAS, which gives axial slices, unless slices along another are clearly thicker than their pixels: so
    a stack that was acquired aslant or upright is seen slice by slice.
    """
    if record.dims == 2 or record.spacing is None:
        return 2
    thickest = max(range(3), key=lambda axis: (record.spacing or ())[axis])
    rest = max(edge for axis, edge in enumerate(record.spacing) if axis != thickest)
    return thickest if record.spacing[thickest] > THICK * rest else 2


def flat_edges(record: Record, size: Sequence[int], across: int | None = None) -> tuple[int, ...]:
    """Give a patch one edge for each axis of a scan: two edges on a volume are those of a slice.

    Parameters
    ----------
    record
        A scan.
    size
        Edge lengths [voxel], as many as the network has axes.
    across
        Axis along which the slice is one voxel thick; without it, `flat_axis`.
    """
    if len(size) == record.dims:
        return tuple(size)
    across = flat_axis(record) if across is None else across
    return (*size[:across], 1, *size[across:])


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


def planes_with(record: Record, counts: str, least: float) -> NDArray[np.int64]:
    """List the planes of a scan of which a preparation counted at least so much, rising.

    Parameters
    ----------
    record
        A scan.
    counts
        Name of the counts among `Record.extras`, a number a plane.
    least
        Fewest that a plane must have, and never none.
    """
    counted = record.extras[counts].whole().reshape(-1)
    return np.flatnonzero((counted >= least) & (counted > 0))


def slice_heights(record: Record) -> NDArray[np.float64]:
    """Say how far each axial slice lies above the lowest one of the scan's file, ``plane`` [mm]; 0 for a picture.

    The file's slices count, not those that the store made of them where it resampled the scan.

    Raises
    ------
    DataError
        The volume has no spacing.
    """
    if record.dims == 2:
        return np.zeros(1)
    if record.spacing is None:
        raise DataError(
            f"{record.source.name} has no voxel spacing, so nobody knows how far its slices lie apart",
            "Export it with its geometry, or leave it out.",
        )
    first, own = 0.0, record.grid.affine
    if own is not None and record.affine is not None:
        upwards = record.affine[:3, 2] / np.linalg.norm(record.affine[:3, 2])
        last = np.asarray(record.grid.shape) - 1
        corners = np.stack(np.meshgrid(*((0, edge) for edge in last), indexing="ij"), -1)
        placed = corners.reshape(-1, 3) @ own[:3, :3].T + own[:3, 3]
        first = float(record.affine[:3, 3] @ upwards - (placed @ upwards).min())
    return first + record.spacing[2] * np.arange(record.space[2], dtype=np.float64)


def middle_view(record: Record) -> tuple[Tensor, float]:
    """Show a volume from the front, by its middle coronal plane; a single slice from below, and a picture as it lies.

    Returns
    -------
    tuple
        ``rows columns`` of the first channel, scaled to [0, 1], head or front up; height over width of a pixel.
    """
    space = record.space
    edges = record.spacing or (1.0,) * record.dims
    if record.dims == 2:
        plane, aspect = record.patch((0, 0), space)[0], edges[0] / edges[1]
        if record.placed:  # its first axis goes to the right, its second to the front
            plane, aspect = plane.T.flip(0), edges[1] / edges[0]
    else:
        middle = record.patch((0, space[1] // 2, 0), (space[0], 1, space[2]))
        plane, aspect = middle[0, :, 0].T.flip(0), edges[2] / edges[0]
    low, high = plane.amin(), plane.amax()
    return (plane - low) / (high - low).clamp(min=1e-6), aspect


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
