"""Slabs: three thin parallel planes with a large field of view, read from a volume at any place by interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data.record import Record

PLANES = 3  # of a slab: the channels of a network that sees it
ORDERS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))  # by the axis that comes first

Positions = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Slab:
    """The planes that a network sees at once, in coordinates that span a frame from -1 to 1 along each axis.

    Parameters
    ----------
    edges
        Samples along the two axes within the planes.
    reach
        From the middle to the outermost sample along them.
    gap
        Between neighbouring planes.
    """

    edges: tuple[int, int]
    reach: float = 0.4
    gap: float = 0.05

    def offsets(self, axis: int) -> Positions:
        """List the samples of a slab about the origin, axis by axis; `axis` is the one across the planes."""
        across: NDArray[np.float64] = self.gap * (np.arange(PLANES, dtype=np.float64) - PLANES // 2)
        along = [
            np.linspace(-self.reach, self.reach, edge, dtype=np.float64) for edge in self.edges
        ]
        along.insert(axis, across)
        first, second, third = along
        return first, second, third


class Frame(NamedTuple):
    """The box that coordinates from -1 to 1 span: a whole scan, or as much about the middle of its foreground.

    Parameters
    ----------
    start
        First position along each axis [voxel]; need not be whole, nor within the scan.
    edges
        Voxels along each axis.
    """

    start: tuple[float, ...]
    edges: tuple[int, ...]

    @classmethod
    def of(cls, record: Record, edges: Sequence[int] | None = None) -> Frame:
        """Take the whole scan, or a box of given edges [voxel] about the middle of its foreground."""
        if edges is None:
            return cls((0.0,) * record.dims, record.space)
        middle = [(first + stop - 1) / 2 for first, stop in record.foreground]
        return cls(
            tuple(at - (edge - 1) / 2 for at, edge in zip(middle, edges, strict=True)),
            tuple(edges),
        )

    def place(
        self,
        centre: Sequence[float],
        offsets: Positions,
        ends: Literal["centres", "faces"] = "centres",
    ) -> Positions:
        """Turn coordinates about a centre into positions [voxel].

        Parameters
        ----------
        centre
            Coordinates, in the order of the axes.
        offsets
            Coordinates of samples about it, axis by axis.
        ends
            Whether -1 and 1 are the centres of the outermost voxels, or their outer faces.
        """
        inner = ends == "centres"
        first, second, third = (
            away * ((edge - inner) / 2)
            + (start + ((middle + 1) * (edge - inner) - (not inner)) / 2)
            for start, edge, middle, away in zip(
                self.start, self.edges, centre, offsets, strict=True
            )
        )
        return first, second, third


def read_slab(record: Record, positions: Positions, axis: int) -> tuple[Tensor, float]:
    """Read a slab of a volume with one channel, interpolated linearly; zero beyond the volume.

    Parameters
    ----------
    record
        A volume, under a rule by which zero means nothing in particular (its mean).
    positions
        Of the samples along each axis, ascending [voxel].
    axis
        The one across the planes.

    Returns
    -------
    tuple
        ``plane *rows_columns``, and the share of its samples beyond the volume.
    """
    space = record.space
    start, size, inside = _reach(*positions, space)
    if min(size) < 1:
        return torch.zeros([len(positions[each]) for each in ORDERS[axis]]), 1.0
    part = record.patch(start, size).numpy()[0]
    first, second, third = (
        (along - low)[None] for along, low in zip(positions, start, strict=True)
    )
    lattice = interpolate(part, (first, second, third), axis)
    return torch.from_numpy(lattice[0]), 1.0 - inside


def read_slabs(
    places: Sequence[tuple[Record, Frame, Sequence[float]]], offsets: Positions, axis: int
) -> tuple[Tensor, Tensor]:
    """Read many slabs at once: what `read_slab` gives at ``frame.place(centre, offsets)``, bit for bit.

    Parameters
    ----------
    places
        Of each slab: a volume, the frame of its coordinates, and the slab's centre in them.
    offsets
        Of a slab's samples about its centre, axis by axis, in the same coordinates.
    axis
        The one across the planes.

    Returns
    -------
    tuple
        ``slab plane *rows_columns``, and ``slab``: the share of its samples beyond the volume.
    """
    order = ORDERS[axis]
    slabs = np.zeros((len(places), *(len(offsets[each]) for each in order)), np.float32)
    missing = np.ones(len(places), np.float64)
    for number, (record, frame, centre) in enumerate(places):
        edges = tuple(map(float, frame.edges))
        found = _locate(frame.start, edges, tuple(centre), *offsets, record.space)
        start, size, inside, *along = found
        if min(size) >= 1:
            part = record.patch(start, size).numpy()[0].transpose(order)
            planes, rows, columns = (along[each] for each in order)
            _interpolate(part, planes, rows, columns, slabs[number : number + 1])
            missing[number] = 1.0 - inside
    return torch.from_numpy(slabs), torch.from_numpy(missing)


def cut_slabs(
    volume: NDArray[np.float32], centres: NDArray[np.float64], offsets: Positions, axis: int
) -> Tensor:
    """Cut slabs about many centres from a volume in memory; zero beyond it.

    Parameters
    ----------
    volume
        ``*space``.
    centres
        ``slab 3`` [voxel].
    offsets
        Of a slab's samples about its centre, axis by axis [voxel].
    axis
        The one across the planes.

    Returns
    -------
    Tensor
        ``slab plane *rows_columns``.
    """
    first, second, third = (
        at[:, None] + away[None] for at, away in zip(centres.T, offsets, strict=True)
    )
    return torch.from_numpy(interpolate(volume, (first, second, third), axis))


def interpolate(
    volume: NDArray[np.float32], positions: Positions, axis: int = 0
) -> NDArray[np.float32]:
    """Interpolate a volume linearly on lattices whose axes are the volume's own; zero counts beyond it.

    Parameters
    ----------
    volume
        ``*space``, three axes.
    positions
        ``lattice sample`` along each axis [voxel].
    axis
        Comes first in the result; the other two keep their order.

    Returns
    -------
    NDArray
        ``lattice *samples``, contiguous.

    >>> line = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    >>> nil = np.zeros((1, 1))
    >>> interpolate(line, (nil, nil, np.array([[0.5, 2.0, 3.5]]))).ravel().tolist()
    [0.5, 2.0, 1.5]
    """
    planes, rows, columns = (positions[each] for each in ORDERS[axis])
    out = np.empty((len(planes), planes.shape[1], rows.shape[1], columns.shape[1]), np.float32)
    _interpolate(volume.transpose(ORDERS[axis]), planes, rows, columns, out)
    return out


@njit(nogil=True, cache=True)
def _reach(rows, columns, depths, space):  # type: ignore[no-untyped-def]
    """Find the voxels that ascending positions need, start and size, and the share of the lattice within the volume."""
    bounds = np.empty((2, 3), np.int64)
    inside = 1.0
    for axis in range(3):
        along = rows if axis == 0 else columns if axis == 1 else depths
        last = space[axis] - 1
        bounds[0, axis] = max(0, int(np.floor(along[0])))
        bounds[1, axis] = min(last, int(np.floor(along[-1])) + 1) - bounds[0, axis] + 1
        count = 0
        for at in along:
            count += 0 <= at <= last
        inside *= count / along.size
    start, size = bounds
    return (start[0], start[1], start[2]), (size[0], size[1], size[2]), inside


@njit(nogil=True, cache=True)
def _locate(begin, edges, centre, rows, columns, depths, space):  # type: ignore[no-untyped-def]
    """Do what `Frame.place` and `_reach` do, and give positions from the first voxel that they need: ``1 sample``."""
    along = (np.empty((1, rows.size)), np.empty((1, columns.size)), np.empty((1, depths.size)))
    for axis in range(3):
        away = rows if axis == 0 else columns if axis == 1 else depths
        middle = begin[axis] + ((centre[axis] + 1.0) * (edges[axis] - 1.0)) / 2.0
        for k in range(away.size):
            along[axis][0, k] = away[k] * ((edges[axis] - 1.0) / 2.0) + middle
    start, size, inside = _reach(along[0][0], along[1][0], along[2][0], space)
    for axis in range(3):
        along[axis][0] -= start[axis]
    return start, size, inside, along[0], along[1], along[2]


@njit(nogil=True, inline="always")
def _corners(at, edge):  # type: ignore[no-untyped-def]
    """Give the voxels on both sides of a position within an axis, and their weights, zero beyond it."""
    below = int(np.floor(at))
    above = below + 1
    share = np.float32(at - below)
    low = np.float32(1.0) - share if 0 <= below < edge else np.float32(0.0)
    high = share if 0 <= above < edge else np.float32(0.0)
    return min(max(below, 0), edge - 1), min(max(above, 0), edge - 1), low, high


@njit(nogil=True, cache=True, error_model="numpy")
def _interpolate(volume, planes, rows, columns, out):  # type: ignore[no-untyped-def]
    """Fill ``lattice plane row column`` from a volume whose axes lie in the same order."""
    depth, height, width = volume.shape
    line = np.empty(width, np.float32)
    samples = out.shape[3]
    lows, highs = np.empty(samples, np.uint32), np.empty(samples, np.uint32)
    by_low, by_high = np.empty(samples, np.float32), np.empty(samples, np.float32)
    for n in range(out.shape[0]):
        for k in range(samples):
            lows[k], highs[k], by_low[k], by_high[k] = _corners(columns[n, k], width)
        first, stop = np.int64(lows.min()), np.int64(highs.max()) + 1
        for i in range(out.shape[1]):
            i0, i1, a0, a1 = _corners(planes[n, i], depth)
            for j in range(out.shape[2]):
                j0, j1, b0, b1 = _corners(rows[n, j], height)
                one, two = volume[i0, j0], volume[i0, j1]
                three, four = volume[i1, j0], volume[i1, j1]
                w1, w2, w3, w4 = a0 * b0, a0 * b1, a1 * b0, a1 * b1
                for k in range(first, stop):
                    line[k] = w1 * one[k] + w2 * two[k] + w3 * three[k] + w4 * four[k]
                target = out[n, i, j]
                for k in range(samples):
                    target[k] = by_low[k] * line[lows[k]] + by_high[k] * line[highs[k]]
