"""Where a stained section is tissue: found once and kept in the store, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.positions import TISSUE, block_means
from unlabeled.data.scan import Scan

_LEVELS = 256


@dataclass(frozen=True)
class TissueShare:
    """Tell tissue from the glass, bright or dark; adds ``1 rows columns`` of blocks [percent] to a picture's extras.

    Glass is what looks like the section's border: a pixel is tissue where its grey level differs from the border's
    median by more than Otsu's threshold of these differences (ours).
    """

    def __call__(self, scan: Scan) -> Scan:
        """Add the shares of a picture; a volume stays as it is."""
        if scan.dims != 2:
            return scan
        grey = scan.intensities().mean(0)
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        differs = np.abs(grey - np.median(border))
        tissue = differs > otsu(differs)
        shares = np.rint(100 * block_means(tissue)).astype(np.uint8)
        return replace(scan, extras={**scan.extras, TISSUE: shares[None]})


def otsu(values: NDArray[np.floating]) -> float:
    """Find the threshold that parts values into two groups of least variance (Otsu, 1979).

    >>> bool(1 < otsu(np.array([0.0, 1, 0, 1, 9, 10, 9])) < 9)
    True
    """
    counts, edges = np.histogram(values, _LEVELS)
    middles = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()
    sums = (counts * middles).cumsum()
    above = below[-1] - below
    gap = sums / below.clip(1) - (sums[-1] - sums) / above.clip(1)
    between = below.astype(np.float64) * above * gap**2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:][best[len(best) // 2]])
