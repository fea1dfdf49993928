"""What a network must not see: noise in place of boxes (in- and out-painting), neighbours in place of voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.transforms import _draws, _kernels


@dataclass(frozen=True)
class Box:
    """A box of voxels: where it starts and how long its edges are, along each axis of space [voxel]."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def region(self) -> tuple[slice, ...]:
        """Index of the box in ``channel *space``."""
        cuts = (slice(at, at + edge) for at, edge in zip(self.start, self.size, strict=True))
        return (slice(None), *cuts)


def uniform_noise(shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Draw float32 numbers uniform in [0, 1), some ten times as fast as `torch.rand`.

    >>> noise = uniform_noise((2, 50, 50), torch.Generator().manual_seed(0))
    >>> bool(0 <= noise.min() < 0.01) and bool(0.99 < noise.max() < 1)
    True
    """
    noise = torch.empty(shape)
    _kernels.fill_uniform(_draws.seed(rng), noise.view(-1).numpy())
    return noise


def draw_boxes(
    space: tuple[int, ...],
    edges: tuple[tuple[int, int], ...],
    rng: Generator,
    *,
    most: int,
    p_more: float,
    certain: int = 0,
    margin: int = 3,
) -> tuple[Box, ...]:
    """Draw boxes, each further one with probability `p_more`, until chance stops or there are `most`.

    Parameters
    ----------
    space
        Edge lengths of the image [voxel].
    edges
        Shortest and longest edge of a box along each axis, both included [voxel].
    certain
        Boxes that are drawn whatever chance says.
    margin
        Voxels that stay free at the borders; fewer where the image is too small for it.
    """
    dims = len(space)
    numbers = iter(_draws.uniforms(most * (1 + 2 * dims), rng))
    boxes: list[Box] = []
    while len(boxes) < most and (next(numbers) < p_more or len(boxes) < certain):
        size, start = [], []
        for axis in range(dims):
            low, high = (min(max(1, edge), space[axis]) for edge in edges[axis])
            size.append(low + int(next(numbers) * (high - low + 1)))
        for axis in range(dims):
            free = min(margin, (space[axis] - size[axis]) // 2)
            start.append(free + int(next(numbers) * (space[axis] - size[axis] - 2 * free + 1)))
        boxes.append(Box(tuple(start), tuple(size)))
    return tuple(boxes)


@dataclass(frozen=True)
class InPaint:
    """Replace the inside of some boxes by noise; the image around them must suffice to restore them.

    Box edges are uniform in a sixth to a third of the image's.

    Parameters
    ----------
    p
        Probability that the image is painted at all.
    boxes
        Most boxes.
    p_more
        Probability of each box, the first included, given the one before.
    """

    p: float = 1.0
    boxes: int = 5
    p_more: float = 0.95

    def draw(self, space: tuple[int, ...], rng: Generator) -> tuple[Box, ...]:
        """Draw the boxes that turn to noise."""
        edges = tuple((edge // 6, edge // 3) for edge in space)
        return draw_boxes(space, edges, rng, most=self.boxes, p_more=self.p_more)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Paint into ``channel *space``, intensities in [0, 1]."""
        painted = _paintable(image).clone()
        if _draws.chance(self.p, rng):
            for box in self.draw(tuple(image.shape[1:]), rng):
                part = painted[box.region]
                part.copy_(uniform_noise(tuple(part.shape), rng))
        return painted


@dataclass(frozen=True)
class OutPaint:
    """Replace all but some boxes by noise; the inside of the boxes must suffice to restore the rest.

    Box edges are the image's less a whole number uniform in three to four sevenths of it.

    Parameters
    ----------
    p
        Probability that the image is painted at all.
    boxes
        Most boxes; there is always one.
    p_more
        Probability of each further box, given the one before.
    """

    p: float = 1.0
    boxes: int = 5
    p_more: float = 0.95

    def draw(self, space: tuple[int, ...], rng: Generator) -> tuple[Box, ...]:
        """Draw the boxes that stay."""
        edges = tuple((edge - 4 * edge // 7, edge - 3 * edge // 7) for edge in space)
        return draw_boxes(space, edges, rng, most=self.boxes, p_more=self.p_more, certain=1)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Paint around parts of ``channel *space``, intensities in [0, 1]."""
        _paintable(image)
        if not _draws.chance(self.p, rng):
            return image.clone()
        boxes = self.draw(tuple(image.shape[1:]), rng)
        painted = uniform_noise(tuple(image.shape), rng).to(image.device, image.dtype)
        for box in boxes:
            painted[box.region] = image[box.region]
        return painted


@dataclass(frozen=True)
class Paint:
    """In-painting or out-painting, never both (Models Genesis).

    Parameters
    ----------
    p
        Probability that the image is painted at all.
    p_inpaint
        Share of in-painting; the rest is out-painting.
    """

    p: float = 1.0
    p_inpaint: float = 0.2

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Paint ``channel *space``, intensities in [0, 1]."""
        if not _draws.chance(self.p, rng):
            return image.clone()
        paint = InPaint() if _draws.chance(self.p_inpaint, rng) else OutPaint()
        return paint(image, rng)


def _paintable(image: Tensor) -> Tensor:
    if not image.is_floating_point():
        raise TypeError(f"painting needs intensities in [0, 1], not {image.dtype}")
    return image


class Blinded(NamedTuple):
    """An image with blind spots, and where they are: of the same shape."""

    image: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class BlindSpots:
    """Replace single voxels by others of their neighbourhood (Noise2Void, Krull et al., CVPR 2019).

    The image is divided into boxes of equal edges, and one voxel is drawn evenly in each; those that fall beyond the
    image are left out.  Each is replaced by a voxel drawn evenly from the window about it, itself included; near
    borders the window moves inwards and keeps its size.  Channels have blind spots of their own.

    Parameters
    ----------
    percent
        Aimed share of hidden voxels [%]; a box has 100 / `percent` voxels, its edge rounded.
    radius
        Reach of the window to each side [voxel].
    """

    percent: float = 0.784
    radius: int = 5

    def edge(self, dims: int) -> int:
        """Give the edge of a box [voxel].

        >>> BlindSpots().edge(2), BlindSpots().edge(3)
        (11, 5)
        """
        return max(1, round(math.pow(100 / self.percent, 1 / dims)))

    def draw(self, space: tuple[int, ...], rng: Generator) -> tuple[Tensor, Tensor]:
        """Draw spots and the voxels that replace them, both ``spot axis`` [voxel]."""
        edge = self.edge(len(space))
        boxes = math.prod(-(-extent // edge) for extent in space)
        spots, donors = np.empty((2, boxes, len(space)), np.int64)
        number = _kernels.draw_spots(
            _draws.seed(rng), np.array(space), edge, self.radius, spots, donors
        )
        return torch.from_numpy(spots[:number]), torch.from_numpy(donors[:number])

    def __call__(self, image: Tensor, rng: Generator) -> Blinded:
        """Blind ``channel *space``, each channel with spots of its own; of many images at once, see `turned`."""
        space = tuple(image.shape[1:])
        parts = [replace_spots(original, *self.draw(space, rng)) for original in image]
        return Blinded(*map(torch.stack, zip(*parts, strict=True)))

    def seeds(self, channels: int, rng: Generator) -> list[np.uint64]:
        """Draw what the spots of each channel come from."""
        return [_draws.seed(rng) for _ in range(channels)]

    def turned(
        self,
        images: NDArray[np.float32],
        ways: Sequence[int],
        boxes: Sequence[Sequence[slice]],
        seeds: Sequence[Sequence[np.uint64]],
    ) -> tuple[Tensor, Blinded]:
        """Turn many images, and blind each within a box, in one call: as `turn_square` and this do one by one.

        Parameters
        ----------
        images
            ``image channel *space``, contiguous.
        ways
            Of `turn_square`, one an image; where the first two edges differ, those that keep them.
        boxes
            What of the turned image is blinded, for each axis of space.
        seeds
            As `seeds` draws them, for each image.

        Returns
        -------
        tuple
            The turned images, and these with blind spots, all ``image channel *space``.
        """
        turned, replaced = np.empty((2, *images.shape), np.float32)
        hidden = np.empty(images.shape, np.bool_)
        solid = (*images.shape[:4], -1)
        within = np.array([[(part.start, part.stop) for part in box] for box in boxes], np.int64)
        _kernels.turn_and_blind(
            np.array(ways, np.int64),
            within,
            np.array(seeds, np.uint64),
            self.edge(images.ndim - 2),
            self.radius,
            images.reshape(solid),
            turned.reshape(solid),
            replaced.reshape(solid),
            hidden.reshape(solid),
        )
        blinded = Blinded(torch.from_numpy(replaced), torch.from_numpy(hidden))
        return torch.from_numpy(turned), blinded


def replace_spots(image: Tensor, spots: Tensor, donors: Tensor) -> Blinded:
    """Blind ``*space``: `spots` get what `donors` hold before any is replaced; both ``spot axis``.

    >>> replace_spots(torch.tensor([1, 2, 3]), torch.tensor([[0], [1]]), torch.tensor([[1], [2]])).image
    tensor([2, 3, 3])
    """
    original = np.ascontiguousarray(image.numpy())
    replaced, hidden = original.copy(), np.zeros(original.shape, np.bool_)
    held, filled, marked = (each.reshape(-1) for each in (original, replaced, hidden))
    places = spots.numpy(), donors.numpy(), np.array(original.shape)
    _kernels.copy_spots(held, *places, filled, marked)
    return Blinded(torch.from_numpy(replaced), torch.from_numpy(hidden))


class MaskedPieces(NamedTuple):
    """Pieces of which some lost voxels, and where."""

    pieces: Tensor  # piece channel *edges
    masked: Tensor  # piece: true where voxels were taken
    keep: Tensor  # piece *edges: false where one was taken


@dataclass(frozen=True)
class MaskPieces:
    """Take single voxels out of some pieces of an image (Rubik's cube+, Zhu et al., MedIA 2020).

    Each piece by itself is masked with probability `p_mask`; each voxel of a masked piece by itself is taken with
    probability `p_drop`, in all channels alike.  Kept voxels and other pieces stay as they are, bit for bit.

    Parameters
    ----------
    p_mask
        Probability that a piece is masked.
    p_drop
        Share of a masked piece's voxels that are taken.
    fill
        What stands in their place.
    """

    p_mask: float = 0.5
    p_drop: float = 0.5
    fill: float = 0.0

    def choose(self, numbers: Sequence[float]) -> Tensor:
        """Say what numbers in [0, 1), one a piece, mean: those below `p_mask` mask."""
        return torch.tensor([number < self.p_mask for number in numbers], dtype=torch.bool)

    def draw(self, pieces: int, edges: Sequence[int], rng: Generator) -> tuple[Tensor, Tensor]:
        """Draw which pieces are masked, ``piece``, and which voxels stay, ``piece *edges``."""
        masked = self.choose(_draws.uniforms(pieces, rng))
        keep = torch.ones((pieces, *edges), dtype=torch.bool)
        keep[masked] = uniform_noise((int(masked.sum()), *edges), rng) >= self.p_drop
        return masked, keep

    def apply(self, pieces: Tensor, keep: Tensor) -> Tensor:
        """Fill ``piece channel *edges`` where ``piece *edges`` is false."""
        return torch.where(keep[:, None], pieces, self.fill)

    def __call__(self, pieces: Tensor, rng: Generator) -> MaskedPieces:
        """Mask some of ``piece channel *edges``."""
        masked, keep = self.draw(len(pieces), pieces.shape[2:], rng)
        return MaskedPieces(self.apply(pieces, keep), masked, keep)
