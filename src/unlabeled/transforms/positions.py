"""Nine boxes about the place where two lines cross, and views of images with them (Bai et al., MICCAI 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.hearts import Cross, HeartImage
from unlabeled.data.sampling import centre_start
from unlabeled.data.store import Record
from unlabeled.transforms.warping import Warp, rotating, zooming

BOXES = 9  # one at the crossing, two to each side along either line
_FARTHEST = 3.0  # deviations of a drawn number, at most
_REACH = 2.5  # steps that a drawn line goes to either side

#: Colours of the boxes, box by box, in [0, 1].
COLOURS = (
    (1.0, 1.0, 1.0),
    (1.0, 0.25, 0.2),
    (0.6, 0.1, 0.1),
    (1.0, 0.65, 0.1),
    (0.65, 0.4, 0.05),
    (0.2, 0.6, 1.0),
    (0.1, 0.3, 0.75),
    (0.25, 0.9, 0.35),
    (0.1, 0.5, 0.2),
)


@dataclass(frozen=True)
class NineBoxes:
    """Squares along two lines: 1 at the crossing; 2 and 3 along the first line, near and far, 4 and 5 against it; 6 to 9 likewise.

    Parameters
    ----------
    edge
        Of a box, which lies square to its line [mm].
    step
        From one box of a line to the next [mm].
    """

    edge: float = 10.0
    step: float = 18.0

    def __call__(self, cross: Cross, spacing: Sequence[float], space: Sequence[int]) -> Tensor:
        """Number the pixels of an image.

        Parameters
        ----------
        cross
            The lines, in the image's own pixels.
        spacing
            From one pixel to the next along both axes [mm].
        space
            Pixels along both axes.

        Returns
        -------
        Tensor
            ``*space`` int64; 0 outside the boxes.  Where two boxes meet, the smaller number stays.
        """
        out = np.zeros(tuple(space), np.int64)
        _paint(
            np.asarray(cross.centre, np.float64),
            np.asarray(cross.ways, np.float64),
            np.asarray(spacing, np.float64),
            self.edge / 2,
            self.step,
            out,
        )
        return torch.from_numpy(out)


@njit(cache=True, nogil=True)
def _paint(
    centre: NDArray[np.float64],
    ways: NDArray[np.float64],
    spacing: NDArray[np.float64],
    half: float,
    step: float,
    out: NDArray[np.int64],
) -> None:
    rows, columns = out.shape
    reach = half * math.sqrt(2.0)
    for number in range(1, 10):
        line = 0 if number < 6 else 1
        place = (number - 2) % 4
        times = 0.0 if number == 1 else (1.0 + place % 2) * (1.0 if place < 2 else -1.0)
        down, right = ways[line, 0], ways[line, 1]
        row = centre[0] + times * step * down / spacing[0]
        column = centre[1] + times * step * right / spacing[1]
        first = max(0, math.floor(row - reach / spacing[0]))
        last = min(rows - 1, math.ceil(row + reach / spacing[0]))
        begin = max(0, math.floor(column - reach / spacing[1]))
        end = min(columns - 1, math.ceil(column + reach / spacing[1]))
        for i in range(first, last + 1):
            for j in range(begin, end + 1):
                y, x = (i - row) * spacing[0], (j - column) * spacing[1]
                along, aside = y * down + x * right, x * down - y * right
                if out[i, j] == 0 and -half <= along < half and -half <= aside < half:
                    out[i, j] = number


@dataclass(frozen=True)
class TurnZoom:
    """Turn and zoom about the middle by clipped normal numbers; lengths are in mm, so that angles stay.

    Parameters
    ----------
    rotation
        Deviation of the angle [degree].
    zoom
        Deviation of the magnification from 1.
    """

    rotation: float = 10.0
    zoom: float = 0.2

    def draw(self, space: Sequence[int], spacing: Sequence[float], rng: Generator) -> Warp:
        """Draw a warp of pictures ``rows columns`` of one size."""
        turn, size = torch.randn(2, generator=rng, dtype=torch.float64).clamp(-_FARTHEST, _FARTHEST)
        edges = np.array([spacing[1], spacing[0], 1.0])
        middle = ((space[1] - 1) / 2 * edges[0], (space[0] - 1) / 2 * edges[1])
        moved = zooming(1 + self.zoom * float(size), middle) @ rotating(
            self.rotation * float(turn), middle
        )
        return Warp(moved * edges[None, :] / edges[:, None])


class Positions(NamedTuple):
    """A view of a heart.

    Parameters
    ----------
    image
        ``*batch channel rows columns`` in [0, 1].
    boxes
        ``*batch rows columns``: 0 to 9.
    lines
        ``*batch line end axis``: both ends of both lines [pixel].
    """

    image: Tensor
    boxes: Tensor
    lines: Tensor


@dataclass(frozen=True)
class PositionViews:
    """Cut a slice of a heart with its nine boxes, turned and zoomed together.

    Parameters
    ----------
    boxes
        Where they lie.
    move
        How views are turned and zoomed; None leaves them.
    size
        Pixels of a view along both axes, about the image's middle; beyond the image it is 0.
    """

    boxes: NineBoxes
    move: TurnZoom | None
    size: tuple[int, int]

    def __call__(self, item: HeartImage, rng: Generator) -> Positions:
        """Draw a slice and view it."""
        number = int(torch.randint(len(item.places), (), generator=rng))
        return self.view(item, number, rng)

    def view(self, item: HeartImage, number: int, rng: Generator) -> Positions:
        """View one of the slices, counted from 0 among those of the item."""
        image, start = read_plane(item.record, item.across, item.places[number], self.size)
        cross = item.crosses[number]
        centre = cross.centre - np.array(start)
        boxes = self.boxes(Cross(centre, cross.ways), item.spacing, self.size)
        reach = _REACH * self.boxes.step * cross.ways / np.array(item.spacing)
        lines = centre + np.stack([-reach, reach], 1)
        if self.move is not None:
            warp = self.move.draw(self.size, item.spacing, rng)
            image, boxes = warp.nearest(image, boxes)
            ends = np.concatenate([lines[..., ::-1], np.ones((2, 2, 1))], -1)
            lines = (ends @ warp.matrix.T)[..., 1::-1]
        return Positions(image, boxes, torch.from_numpy(np.ascontiguousarray(lines)).float())


def read_plane(
    record: Record, across: int, place: int, size: Sequence[int]
) -> tuple[Tensor, tuple[int, int]]:
    """Read the middle of one slice across any axis of a volume, or of a picture.

    Returns
    -------
    tuple
        ``channel rows columns``, and the index of its first pixel in the slice.
    """
    within = [axis for axis in range(record.dims) if axis != across]
    first, second = centre_start([record.space[axis] for axis in within], size)
    start, edges = [first, second], [*size]
    if record.dims == 3:
        start.insert(across, place)
        edges.insert(across, 1)
    patch = record.patch(start, edges)
    return patch.reshape(patch.shape[0], *size), (first, second)


def coloured(image: Tensor, boxes: Tensor) -> Tensor:
    """Lay boxes over the first channel, each in its colour.

    Parameters
    ----------
    image
        ``batch channel rows columns`` in [0, 1].
    boxes
        ``batch rows columns``: 0 to 9.

    Returns
    -------
    Tensor
        ``batch 3 rows columns`` in [0, 1].
    """
    grey = image[:, :1].clamp(0, 1).expand(-1, 3, -1, -1)
    table = torch.tensor(((0.0, 0.0, 0.0), *COLOURS), device=image.device)
    tint = table[boxes].movedim(-1, 1)
    return torch.where(boxes[:, None] > 0, 0.3 * grey + 0.7 * tint, grey)


def ruled(image: Tensor, lines: Tensor) -> Tensor:
    """Draw two lines over the first channel, the first red and the second blue.

    Parameters
    ----------
    image
        ``batch channel rows columns`` in [0, 1].
    lines
        ``batch 2 end axis`` [pixel].

    Returns
    -------
    Tensor
        ``batch 3 rows columns`` in [0, 1].
    """
    rows, columns = image.shape[2:]
    grid = torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1
    ).to(lines)
    begin, end = lines[:, :, None, None, 0], lines[:, :, None, None, 1]
    along = end - begin
    share = ((grid - begin) * along).sum(-1) / (along**2).sum(-1).clamp(min=1e-6)
    nearest = begin + share.clamp(0, 1)[..., None] * along
    on = (grid - nearest).norm(dim=-1) < 0.6
    picture = image[:, :1].clamp(0, 1).expand(-1, 3, -1, -1)
    for line, colour in enumerate((COLOURS[1], COLOURS[5])):
        tint = torch.tensor(colour, device=image.device).view(1, 3, 1, 1)
        picture = torch.where(on[:, line, None], tint, picture)
    return picture
