"""Slices into a volume: order and affine from the slices' positions, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats.dicom_tags import Plane
from unlabeled.errors import ScanError

UNEVEN = 0.05  # share of the slice distance that positions may deviate by: rounding in headers
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's world is LPS


class SamePositionError(ScanError):
    """Several slices lie at one place: copies, or several volumes in one series."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A volume's slices in order.

    Parameters
    ----------
    order
        Positions in the sequence that was given, from the first slice to the last.
    affine
        Index (column, row, slice) to RAS+ world [mm].
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def series_name(paths: Sequence[Path]) -> str:
    """Name a file, or a series by its first file, for messages.

    >>> series_name([Path("a/1.dcm"), Path("a/2.dcm")])
    'a/1.dcm (with 1 more of its series)'
    """
    return str(paths[0]) + (f" (with {len(paths) - 1} more of its series)" if paths[1:] else "")


def stack(planes: Sequence[Plane], where: str) -> Stack:
    """Order slices by their position along the normal and find their common grid.

    Parameters
    ----------
    planes
        Slices whose place is known.
    where
        File or series, for messages.

    Raises
    ------
    SamePositionError
        Slices at the same place.
    ScanError
        Missing slices, mixed orientation, pixel spacing or slice distance, slices shifted sideways.
    """
    positions, axes, edges = _common(planes, where)
    normal = np.cross(axes[0], axes[1])
    height = positions @ normal
    order = np.argsort(height, kind="stable")
    notes: list[str] = []
    if len(planes) == 1:
        thickness = planes[0].thickness
        if thickness is None:
            notes.append("slice thickness not stated: 1 mm was assumed")
        step = normal * (thickness or 1.0)
    else:
        _check_gaps(np.diff(height[order]), min(edges), where)
        step = _common_step(positions[order], min(edges), where)
        if abs(step @ normal) < np.cos(np.radians(0.5)) * np.linalg.norm(step):
            notes.append("the axes are not perpendicular (gantry tilt or shear)")
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * edges[1]
    affine[:3, 1] = axes[1] * edges[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return Stack(tuple(int(i) for i in order), _FLIP @ affine, tuple(notes))


def _common(
    planes: Sequence[Plane], where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
    """Give all positions, and the orientation and pixel edges that all slices share."""
    positions = np.stack([p.position for p in planes if p.position is not None])
    directions = np.stack([p.axes for p in planes if p.axes is not None])
    edges = np.asarray([p.edges for p in planes if p.edges is not None])
    if not len(positions) == len(directions) == len(edges) == len(planes):
        raise ScanError(
            f"{where} has slices without position, orientation or pixel spacing",
            "Export the series again with its geometry.",
        )
    if not (np.isfinite(positions).all() and np.isfinite(directions).all()):
        raise ScanError(f"{where} has positions that are no numbers", "Export the series again.")
    if not np.isfinite(edges).all() or (edges <= 0).any():
        listed = " x ".join(f"{edge:g}" for edge in edges.min(axis=0))
        raise ScanError(f"{where} has zero pixel spacing ({listed} mm)", "Export the series again.")
    axes = directions[0]
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-2):
        raise ScanError(
            f"{where} has a singular orientation: its row and column directions are not perpendicular",
            "Export the series again.",
        )
    if np.abs(directions - axes).max() > 1e-2:
        raise ScanError(
            f"{where} mixes slice orientations",
            "Export each orientation as a series of its own.",
        )
    if np.abs(edges / edges[0] - 1).max() > 1e-3:
        raise ScanError(
            f"{where} mixes pixel spacings ({edges.min():g} to {edges.max():g} mm)",
            "Export each spacing as a series of its own.",
        )
    return positions, axes, (float(edges[0, 0]), float(edges[0, 1]))


def _check_gaps(gaps: NDArray[np.float64], edge: float, where: str) -> None:
    """Look for slices at one place, missing slices and mixed distances."""
    same = int((gaps < 0.01 * edge).sum())
    if same:
        raise SamePositionError(
            f"{where} has {same + 1 if same == 1 else same} slices at the same position",
            "Remove the copies, or split the series into one volume each, for example with dcm2niix.",
        )
    usual = float(np.median(gaps))
    if (np.abs(gaps - usual) <= UNEVEN * usual).all():
        return
    base = float(gaps.min())
    times = gaps / base
    wide = times > 1 + UNEVEN
    whole = np.abs(times - np.rint(times)) <= 0.1
    if whole[wide].all() and (len(gaps) < 3 or wide.mean() <= 1 / 3):
        missing = int((np.rint(times[wide]) - 1).sum())
        raise ScanError(
            f"{where} misses {missing} slice{'s' * (missing > 1)}: there are gaps of up to "
            f"{gaps.max():.4g} mm between slices {base:.4g} mm apart",
            "Copy the series again, complete.",
        )
    raise ScanError(
        f"{where} mixes slice distances ({base:.4g} to {gaps.max():.4g} mm)",
        "Export each distance as a series of its own, or reconstruct the series evenly.",
    )


def _common_step(positions: NDArray[np.float64], edge: float, where: str) -> NDArray[np.float64]:
    """Give the way from one slice to the next, the same for all."""
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    astray = float(np.sqrt(((positions - expected) ** 2).sum(axis=1)).max())
    if astray > max(0.5 * edge, 2 * UNEVEN * float(np.linalg.norm(step))):
        raise ScanError(
            f"{where} has slices shifted sideways against each other, by up to {astray:.3g} mm",
            "Reconstruct the series on one straight grid.",
        )
    return step
