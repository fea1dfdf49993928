"""Orientation of voxel grids: to RAS and back, and whether two grids are the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import ScanError


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """Voxel edge lengths [mm] of an affine: the lengths of its columns.

    >>> spacing_of(np.diag([-2.0, 3.0, 4.0, 1.0]))
    (2.0, 3.0, 4.0)
    """
    return tuple(float(edge) for edge in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def is_identity(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is the identity, which programs write when they know no geometry."""
    return bool(np.array_equal(affine, np.eye(4)))


def check_affine(affine: NDArray[np.float64], path: Path) -> None:
    """Raise a `ScanError` when an affine cannot place voxels: NaN, zero spacing, parallel axes."""
    again = "Export the scan again, or copy the affine of a scan with the same grid into it."
    if not np.isfinite(affine).all():
        raise ScanError(f"{path} has an affine with values that are no numbers", again)
    spacing = np.asarray(spacing_of(affine))
    if (spacing <= 0).any():
        listed = " x ".join(f"{edge:g}" for edge in spacing)
        raise ScanError(f"{path} has zero voxel spacing ({listed} mm)", again)
    volume = abs(float(np.linalg.det(affine[:3, :3] / spacing)))
    if volume < 1e-3:
        raise ScanError(f"{path} has a singular affine: two of its axes are parallel", again)


def axes_to_ras(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Say which axis of the array becomes right, anterior, superior, and which of these are flipped.

    Each array axis goes to the world axis that it is closest to; the assignment as a whole is the best one, so it
    stays a permutation for oblique and sheared grids.

    Parameters
    ----------
    affine
        Non-singular 4x4.

    Returns
    -------
    order
        ``order[world]`` is the axis of the array.
    flipped
        World axes that run against the array.

    >>> axes_to_ras(np.array([[0, -1.0, 0, 0], [2, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]))
    ((1, 0, 2), (0,))
    """
    columns = affine[:3, :3] / np.asarray(spacing_of(affine))
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    order = max(orders, key=lambda chosen: sum(abs(columns[w, a]) for w, a in enumerate(chosen)))
    flipped = tuple(world for world, axis in enumerate(order) if columns[world, axis] < 0)
    return order, flipped


def to_ras(array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Reorient an array (``... *space``, three axes of space) to RAS; a view."""
    order, flipped = axes_to_ras(affine)
    lead = array.ndim - 3
    turned = array.transpose(*range(lead), *(lead + axis for axis in order))
    return np.flip(turned, tuple(lead + axis for axis in flipped)) if flipped else turned


def from_ras(array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Bring an array from RAS (``... *space``) back to the order that `affine` describes; a view."""
    order, flipped = axes_to_ras(affine)
    lead = array.ndim - 3
    unflipped = np.flip(array, tuple(lead + axis for axis in flipped)) if flipped else array
    back = np.argsort(order)
    return unflipped.transpose(*range(lead), *(lead + int(axis) for axis in back))


def affine_in_ras(
    affine: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Give affine and shape of the reoriented array.

    Parameters
    ----------
    affine, shape
        Of the array in the file's order.
    """
    order, flipped = axes_to_ras(affine)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, list(order)]
    turned[:3, 3] = affine[:3, 3]
    ras_shape = tuple(shape[axis] for axis in order)
    for world in flipped:
        turned[:3, 3] += turned[:3, world] * (ras_shape[world] - 1)
        turned[:3, world] *= -1
    return turned, ras_shape


def flat_axis(shape: tuple[int, ...]) -> int | None:
    """Find the axis of a single slice: the only one of three that has one voxel.

    >>> flat_axis((256, 1, 256)), flat_axis((1, 1, 40)), flat_axis((256, 256))
    (1, None, None)
    """
    if len(shape) != 3 or shape.count(1) != 1:
        return None
    return shape.index(1)


def same_grid(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    """Whether two affines put every voxel of a grid at the same place, within a tenth of a voxel.

    The distance is largest at a corner, so the corners are compared.  A grid with two axes is a single slice.
    """
    shape = (*shape, 1)[:3]
    corners = np.stack(
        np.meshgrid(*[(0, edge - 1) for edge in shape], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    apart = corners @ (one - other)[:3, :3].T + (one - other)[:3, 3]
    tolerance = 0.1 * min(min(spacing_of(one)), min(spacing_of(other)))
    return bool(np.sqrt((apart**2).sum(axis=1)).max() <= tolerance)
