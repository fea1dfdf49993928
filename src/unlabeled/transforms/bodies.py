"""How much of every slice is body: counted once and kept in the store."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unlabeled.data.preparation import CT_AIR
from unlabeled.data.scan import Scan

BODY_PIXELS = "body_pixels"  # name among the extras of a scan
BODY_LEVEL = 0.1  # share of the way from the darkest voxel to bright tissue (ours)
BRIGHTEST = 99.5  # percentile of the voxels that stands for bright tissue (ours)
_SAMPLED_VOXELS = 1 << 20  # that the percentile is taken of


@dataclass(frozen=True)
class BodyCount:
    """Count the pixels of every axial slice that are body; adds ``1 slice`` to the extras.

    Body is what is denser than air in CT, and elsewhere what exceeds a share of the way from the darkest voxel to bright
    tissue (ours); a pixel of several channels counts where any of them is.
    """

    def __call__(self, scan: Scan) -> Scan:
        """Add the counts of a volume; a picture is one slice."""
        levels = scan.intensities()
        body = np.zeros(levels.shape[1:], np.bool_)
        for channel in levels:
            limit = CT_AIR
            if scan.modality != "CT":
                some = channel.reshape(-1)[:: max(1, channel.size // _SAMPLED_VOXELS)]
                low, high = float(channel.min()), float(np.percentile(some, BRIGHTEST))
                limit = low + BODY_LEVEL * (high - low)
            body |= channel > limit
        planes = body.reshape(*body.shape[:2], -1)
        counts = planes.sum((0, 1), dtype=np.int32)
        shaped = counts.reshape((1,) * (scan.dims - 1) + (-1,))
        return replace(scan, extras={**scan.extras, BODY_PIXELS: shaped})
