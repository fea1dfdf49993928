"""Regions of a volume that may be blanked: supervoxels kept in the store, or columns of a grid (Kayal et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # type: ignore[attr-defined]

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan
from unlabeled.errors import ScanError
from unlabeled.transforms.superpixels import slic

SUPERVOXELS = "supervoxels"  # name among the extras of a scan


class Region(NamedTuple):
    """A numbered region.

    Parameters
    ----------
    label
        Its number.
    box
        First voxel and the one behind the last, along each axis.
    """

    label: int
    box: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SupervoxelMap:
    """Cut a scan into supervoxels of like intensity, numbered from 1, by `slic` without blur, distances in voxels.

    Adds them to the extras, ``*space``.

    Parameters
    ----------
    voxels
        Usual size of a supervoxel [voxel].
    compactness
        As in `slic`, for intensities of [0, 1].
    channel
        Which one of the registered modalities is looked at.
    """

    voxels: float
    compactness: float = 0.15
    channel: int = 0

    def __call__(self, scan: Scan) -> Scan:
        """Add the map to the scan's extras.

        Raises
        ------
        ScanError
            The scan has no such channel.
        """
        count = len(scan.array)
        if self.channel >= count:
            raise ScanError(
                f"has {count} channel{'s' * (count > 1)}, and supervoxels are cut on channel {self.channel}",
                f"Give --slic-channel 0{f' to {count - 1}' if count > 1 else ''}.",
            )
        image = scan.intensities()[self.channel]
        if scan.modality == "CT":
            image = image.clip(*IntensityRule().ct)
        segments = max(1, round(image.size / self.voxels))
        labels = slic(image, segments, compactness=self.compactness) + 1
        return replace(scan, extras={**scan.extras, SUPERVOXELS: labels})


def column_grid(space: Sequence[int], side: int) -> NDArray[np.int32]:
    """Number square columns of a volume from 1, row by row; each spans all slices of the last axis.

    >>> column_grid((2, 3, 1), 2)[..., 0]
    array([[1, 1, 2],
           [1, 1, 2]], dtype=int32)
    """
    rows, columns, slices = space
    across = -(-columns // side)
    first, second = np.arange(rows) // side, np.arange(columns) // side
    flat = (first[:, None] * across + second + 1).astype(np.int32)
    return np.repeat(flat[..., None], slices, axis=2)


def find_regions(
    labels: NDArray[Any],
    least: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    window: tuple[slice, ...] | None = None,
) -> list[Region]:
    """Find the regions with more than `least` voxels, in the order of their numbers; 0 is none.

    Parameters
    ----------
    labels
        Numbered regions, ``*space``.
    least
        Regions of so many voxels or fewer are left out.
    mask
        Cut every region to these voxels first, ``*space``.
    window
        Leave out regions that have no voxel in it.

    >>> find_regions(np.array([1, 1, 2, 2, 2, 3]), 1, window=(slice(2, 6),))
    [Region(label=2, box=((2, 5),))]
    """
    whole = np.asarray(labels, np.int32)
    kept = whole if mask is None else np.where(mask, whole, 0)
    sizes = np.bincount(kept.reshape(-1))
    large = sizes > least
    if window is not None:
        large &= np.bincount(kept[window].reshape(-1), minlength=len(sizes)) > 0
    return [
        Region(label, tuple((axis.start, axis.stop) for axis in box))
        for label, box in enumerate(find_objects(kept), start=1)
        if box is not None and large[label]
    ]
