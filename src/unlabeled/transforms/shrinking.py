"""Large pictures kept small in the store, so that a patch shows most of one and no training step shrinks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.kernels import scaling
from unlabeled.data.scan import Scan
from unlabeled.data.store import Record

SHRUNK = "shrunk"  # of a prepared picture among `Record.extras`


@dataclass(frozen=True)
class KeepShrunk:
    """Keep a copy of each larger picture whose shorter side has a given length; its shape stays, nothing is padded.

    A preparation: volumes, and pictures that are small enough, pass as they are.

    Parameters
    ----------
    edge
        Shorter side of the copy [pixel].
    """

    edge: int

    def __call__(self, scan: Scan) -> Scan:
        """Add the copy to the scan's extras, in its intensity unit; whole numbers stay whole."""
        if scan.dims != 2 or min(scan.array.shape[1:]) <= self.edge:
            return scan
        picture = torch.from_numpy(scan.intensities().astype(np.float32))
        small = shrink(picture, self.edge).numpy()
        if scan.array.dtype.kind in "iu":
            small = np.rint(small)
        return replace(scan, extras={**scan.extras, SHRUNK: small})


def shrink(picture: Tensor, edge: int) -> Tensor:
    """Scale ``channel rows columns`` to a shorter side of `edge`: linear, smoothed before.

    >>> shrink(torch.zeros(1, 30, 60), 10).shape
    torch.Size([1, 10, 20])
    """
    rows, columns = picture.shape[1:]
    ratio = edge / min(rows, columns)
    size = (max(edge, round(rows * ratio)), max(edge, round(columns * ratio)))
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def shown_space(record: Record) -> tuple[int, ...]:
    """Give the voxels along each axis of what `shown_patch` reads of."""
    kept = record.extras.get(SHRUNK)
    return record.space if kept is None else kept.shape[1:]


def shown_patch(record: Record, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Read a patch as network input, of the small copy where there is one; inside it, ``channel *size``.

    Parameters
    ----------
    record
        A scan.
    start, size
        First voxel and edges [voxel], within `shown_space`; of the scan itself they may lie beyond.
    """
    kept = record.extras.get(SHRUNK)
    if kept is None:
        return record.patch(start, size)
    numbers = [scaling(each, 1.0, 0.0) for each in record.rescalings]
    return torch.from_numpy(kept.read_scaled(start, size, numbers))
