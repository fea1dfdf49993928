"""Partitions of a volume: equal parts along its last axis, which hold alike slices in all volumes of a body part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.data.record import Record
from unlabeled.data.scan import Scan
from unlabeled.errors import ScanError


@dataclass(frozen=True)
class WholeVolumes:
    """A preparation that leaves out scans with fewer slices than partitions.

    Parameters
    ----------
    partitions
        How many a volume is cut into.
    percentiles
        Two percentiles of each channel's numbers to keep beside the scan, for `read_scaled_slice`.
    """

    partitions: int
    percentiles: tuple[float, float] | None = None

    def __call__(self, scan: Scan) -> Scan:
        """Check a scan, and add ``percentiles``, ``channel 2``, to its extras where they are asked for.

        Raises
        ------
        ScanError
            It is a picture, or has too few slices.
        """
        if scan.dims < 3:
            raise ScanError("is a picture, not a volume of slices in order", "Give whole volumes.")
        slices = scan.array.shape[3]
        if slices < self.partitions:
            fewer = f", or --partitions {slices}" if slices > 1 else ""
            raise ScanError(
                f"has {slices} slice(s), fewer than the {self.partitions} partitions",
                f"Give whole volumes{fewer}.",
            )
        if self.percentiles is None:
            return scan
        numbers = scan.array.reshape(len(scan.array), -1).astype(np.float64)
        ends = np.percentile(-numbers if scan.slope < 0 else numbers, self.percentiles, axis=1).T
        return replace(scan, extras={**scan.extras, "percentiles": ends})


def partition_edges(slices: int, partitions: int, *, whole: bool = True) -> tuple[int, ...]:
    """Say where partitions begin, and where the last one ends [slice].

    Parameters
    ----------
    slices
        Of the volume; at least as many as partitions.
    partitions
        How many.
    whole
        Whether every slice belongs to one; else all have the same length, and the slices left over at the end belong
        to none.

    Raises
    ------
    ValueError
        If a partition would be empty.

    >>> partition_edges(10, 4), partition_edges(10, 4, whole=False)
    ((0, 2, 5, 8, 10), (0, 2, 4, 6, 8))
    """
    if slices < partitions:
        raise ValueError(f"{slices} slices cannot be cut into {partitions} partitions")
    if whole:
        return tuple(round(part * slices / partitions) for part in range(partitions + 1))
    return tuple(part * (slices // partitions) for part in range(partitions + 1))


def draw_slices(edges: Sequence[int], rng: Generator) -> tuple[int, ...]:
    """Draw one slice from each partition, evenly."""
    return tuple(
        int(torch.randint(first, stop, (), generator=rng)) for first, stop in pairwise(edges)
    )


def read_slice(record: Record, place: int, size: Sequence[int]) -> Tensor:
    """Read an axial slice of a volume under its intensity rule, cropped or padded around its middle.

    Returns
    -------
    Tensor
        ``channel *size``, float32; beyond the scan, the window's low end.
    """
    start = _start(record.space, size)
    return record.patch((*start, place), (*size, 1)).squeeze(-1)


def read_scaled_slice(record: Record, place: int, size: Sequence[int]) -> Tensor:
    """Read an axial slice as `read_slice` does, but with two percentiles of the volume becoming 0 and 1, unclipped.

    Parameters
    ----------
    record
        Prepared by `WholeVolumes` with percentiles.
    place, size
        Which slice; edges [voxel].

    Returns
    -------
    Tensor
        ``channel *size``, float32; beyond the scan, 0.
    """
    stored = record.image.read((0, 0, place), (*record.space[:2], 1))[..., 0].astype(np.float32)
    low, high = torch.from_numpy(record.extras["percentiles"].whole()[0]).float()[:, None].unbind(2)
    width = (high - low).where(high > low, torch.ones_like(low))
    scaled = (torch.from_numpy(stored) - low[..., None]) / width[..., None]
    sides: list[int] = []
    for begin, edge, wanted in zip(_start(record.space, size), record.space, size, strict=False):
        sides = [-begin, wanted - edge + begin, *sides]
    return F.pad(scaled, sides)


def _start(space: Sequence[int], size: Sequence[int]) -> list[int]:
    """Say where a slice begins that has the scan's middle in its own, negative where it is larger than the scan."""
    return [
        (edge - wanted) // 2 if edge >= wanted else -((wanted - edge) // 2)
        for edge, wanted in zip(space, size, strict=False)
    ]
