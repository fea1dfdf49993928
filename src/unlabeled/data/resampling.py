"""Resampling to a voxel spacing, with the affine.

The new grid has exactly the spacing asked for and the same centre as the old one.  Along each axis it has
``max(1, round(voxels * old spacing / new spacing))`` voxels.  Images are interpolated linearly and masks take the
nearest voxel; beyond the centres of the outermost voxels the outermost value goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unlabeled.data.scan import Scan
from unlabeled.errors import ScanError


@dataclass(frozen=True, slots=True)
class Resampling:
    """From one grid to another of the same centre and axes.

    Parameters
    ----------
    old, new
        Voxels along each axis of space.
    ratio
        New voxel edge length over the old one, along each axis.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    ratio: tuple[float, ...]

    @classmethod
    def between(
        cls, space: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]
    ) -> Self:
        """Plan the way from a grid with one spacing to a grid with another.

        >>> Resampling.between((10, 10, 7), (1.0, 1.0, 2.5), (1.0, 2.0, 1.0)).new
        (10, 5, 18)
        """
        edges = tuple(zip(space, spacing, wanted, strict=True))
        new = tuple(max(1, round(voxels * old / edge)) for voxels, old, edge in edges)
        return cls(tuple(space), new, tuple(edge / old for _, old, edge in edges))

    def image(self, array: NDArray[Any]) -> NDArray[Any]:
        """Interpolate ``channel *space`` linearly; integers are rounded to integers again."""
        flat = (1,) * (3 - len(self.old))
        lower, upper, weights = [], [], []
        for axis in range(3):
            position = np.zeros(1) if axis < len(flat) else self._positions(axis - len(flat))
            edge = 1 if axis < len(flat) else self.old[axis - len(flat)]
            position = np.clip(position, 0, edge - 1)
            lower.append(np.floor(position).astype(np.int64))
            upper.append(np.minimum(lower[-1] + 1, edge - 1))
            weights.append((position - lower[-1]).astype(np.float32))
        out = np.empty((len(array), *flat, *self.new), array.dtype)
        volume = np.ascontiguousarray(array).reshape(len(array), *flat, *self.old)
        whole = array.dtype.kind != "f"
        _interpolate(volume, tuple(lower), tuple(upper), tuple(weights), whole, out)
        return out.reshape(len(array), *self.new)

    def mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Take the nearest voxel of ``*space`` for each new one; of two equally near the later."""
        nearest = [
            np.clip(np.floor(self._positions(axis) + 0.5), 0, edge - 1).astype(np.int64)
            for axis, edge in enumerate(self.old)
        ]
        taken: NDArray[Any] = mask[np.ix_(*nearest)]
        return taken

    def affine(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the new grid's affine, 4x4 [mm], from the old one's."""
        step = np.eye(4)
        for axis, (old, new, ratio) in enumerate(zip(self.old, self.new, self.ratio, strict=True)):
            step[axis, axis] = ratio
            step[axis, 3] = (old - 1) / 2 - ratio * (new - 1) / 2
        return np.asarray(affine @ step, np.float64)

    def _positions(self, axis: int) -> NDArray[np.float64]:
        """Where the new voxels' centres lie along an axis [old voxel]."""
        centred = np.arange(self.new[axis]) - (self.new[axis] - 1) / 2
        positions: NDArray[Any] = centred * self.ratio[axis] + (self.old[axis] - 1) / 2
        return positions


def resample(
    scan: Scan, mask: NDArray[Any] | None, spacing: Sequence[float]
) -> tuple[Scan, NDArray[Any] | None]:
    """Resample a scan and its mask to a spacing [mm].

    Raises
    ------
    ScanError
        If the scan has no spacing, or another number of axes.
    """
    wanted = tuple(float(edge) for edge in spacing)
    if scan.spacing is None:
        raise ScanError(
            "has no voxel spacing, so it cannot be resampled",
            "Leave the file out, or leave out --spacing.",
        )
    if len(wanted) != scan.dims:
        raise ScanError(
            f"has {scan.dims} axes of space, and --spacing names {len(wanted)}",
            f"Give --spacing {scan.dims} lengths [mm].",
        )
    if np.allclose(wanted, scan.spacing, rtol=1e-4, atol=0):
        return scan, mask
    plan = Resampling.between(scan.array.shape[1:], scan.spacing, wanted)
    scan = replace(
        scan,
        array=plan.image(scan.array),
        spacing=wanted,
        affine=None if scan.affine is None else plan.affine(scan.affine),
    )
    return scan, None if mask is None else plan.mask(mask)


@njit(nogil=True, cache=True, error_model="numpy")
def _interpolate(volume, lower, upper, weights, whole, out):  # type: ignore[no-untyped-def]
    for channel in range(out.shape[0]):
        for i in range(out.shape[1]):
            near, far, part = (
                volume[channel, lower[0][i]],
                volume[channel, upper[0][i]],
                weights[0][i],
            )
            for j in range(out.shape[2]):
                first, last, share = lower[1][j], upper[1][j], weights[1][j]
                w00 = (np.float32(1) - part) * (np.float32(1) - share)
                w01 = (np.float32(1) - part) * share
                w10 = part * (np.float32(1) - share)
                w11 = part * share
                for k in range(out.shape[3]):
                    left, right, fraction = lower[2][k], upper[2][k], weights[2][k]
                    before = (
                        w00 * near[first, left] + w01 * near[last, left]
                        + w10 * far[first, left] + w11 * far[last, left]
                    )  # fmt: skip
                    after = (
                        w00 * near[first, right] + w01 * near[last, right]
                        + w10 * far[first, right] + w11 * far[last, right]
                    )  # fmt: skip
                    value = before + (after - before) * fraction
                    out[channel, i, j, k] = np.rint(value) if whole else value
