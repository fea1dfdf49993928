"""Two boxes of a volume that overlap, and the views made of them: scaled to one size, mirrored along some axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.transforms._draws import uniforms

PLANE = 2  # axes along which the two boxes differ: the first ones


class Box(NamedTuple):
    """Part of a scan [voxel]: its first voxel and the one behind its last, along each axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def edges(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class OverlappingBoxes:
    """Draw two boxes that overlap, somewhat larger than a patch in the plane of the first two axes.

    Along further axes both are the same, as long as the patch.  A scan that is too short gives all that it has.

    Parameters
    ----------
    size
        Edges of the patch [voxel].
    scale
        Edges of a box over those of the patch: uniform between these, for each box and axis of the plane.
    least
        Intersection over union of the two in the plane is no smaller; where rounded edges cannot reach it, as large as
        can be.

    Notes
    -----
    Source: PGL (Xie et al., 2020) as a third-party implementation has it; there, second boxes are drawn again until one
    fits.  Here one is drawn evenly among all that do.
    """

    size: tuple[int, ...]
    scale: tuple[float, float] = (1.1, 1.4)
    least: float = 0.1

    def draw(self, space: Sequence[int], rng: Generator) -> tuple[Box, Box]:
        """Draw both inside a scan with these edges [voxel]."""
        numbers = uniforms(2 * PLANE + len(space) + 1, rng)
        edges = self._edges(space, numbers[:PLANE])
        others = self._edges(space, numbers[PLANE : 2 * PLANE])
        places = zip(numbers[2 * PLANE : -1], space, edges, strict=True)
        start = tuple([int(u * (extent - edge + 1)) for u, extent, edge in places])
        first = Box(start, tuple([at + edge for at, edge in zip(start, edges, strict=True)]))
        plane = self._beside(first, others, space, numbers[-1])
        begin = (*plane, *start[PLANE:])
        return first, Box(begin, tuple([at + edge for at, edge in zip(begin, others, strict=True)]))

    def _edges(self, space: Sequence[int], numbers: Sequence[float]) -> tuple[int, ...]:
        low, high = self.scale
        asked = [
            max(1, round(edge * (low + (high - low) * u)))
            for edge, u in zip(self.size, numbers, strict=False)
        ]
        return tuple(map(min, (*asked, *self.size[PLANE:]), space))

    def _beside(
        self, first: Box, edges: tuple[int, ...], space: Sequence[int], number: float
    ) -> tuple[int, int]:
        """Choose where in the plane a second box starts, evenly among the places that overlap enough."""
        starts, lengths = [], []
        for axis in range(PLANE):
            begin, end = first.start[axis], first.stop[axis]
            last = min(space[axis] - edges[axis], end - 1)
            at = np.arange(max(0, begin - edges[axis] + 1), last + 1)
            starts.append(at)
            lengths.append(np.minimum(end, at + edges[axis]) - np.maximum(begin, at))
        down, across = lengths
        areas = first.edges[0] * first.edges[1] + edges[0] * edges[1]
        shared = min(self.least * areas / (1 + self.least), float(down.max() * across.max()))
        enough = shared / down  # voxels across, by the start down
        ways = len(across) - np.searchsorted(np.sort(across), enough)
        ends = np.cumsum(ways)
        place = int(number * ends[-1])
        row = int(np.searchsorted(ends, place, side="right"))
        column = np.flatnonzero(across >= enough[row])[place - ends[row] + ways[row]]
        return int(starts[0][row]), int(starts[1][column])


def make_view(image: Tensor, size: Sequence[int], flips: Sequence[bool]) -> Tensor:
    """Scale what a box holds to a patch, linearly, and mirror it.

    Voxel i of n covers ``[i / n, (i + 1) / n]`` of the box; beyond its outer voxels' centres the image goes on as it ends.

    Parameters
    ----------
    image
        ``channel *edges``, floating.
    size
        Edges of the patch [voxel].
    flips
        Whether each axis of space is mirrored, after scaling.

    >>> import torch
    >>> make_view(torch.tensor([[[0.0, 3.0, 6.0]]]), (1, 2), (False, True))
    tensor([[[5.2500, 0.7500]]])
    """
    size = tuple(size)
    if image.shape[1:] != size:
        mode = "bilinear" if image.ndim == 3 else "trilinear"
        image = F.interpolate(image[None], size, mode=mode, align_corners=False)[0]
    axes = [axis for axis, mirrored in enumerate(flips, start=1) if mirrored]
    return image.flip(axes) if axes else image
