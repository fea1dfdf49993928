"""Every quarter turn of an image at once, without interpolation, and what of an image stays in sight when it turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unlabeled.errors import OptionError, ScanError

ALIKE = 1.5  # most that voxel edges in a plane may differ by, as a ratio, where that plane is turned (ours)


@dataclass(frozen=True)
class QuarterTurns:
    """An image as it is, turn 0, and turned by 90, 180 and 270 degrees in one plane after the other.

    A turn permutes voxels, so nothing but what an image shows tells it.  By k quarters, counter-clockwise in the plane's
    two axes in their order, as `torch.rot90` counts.

    Parameters
    ----------
    dims
        Axes of space of the images.
    planes
        Pairs of axes of space, from 0.
    """

    dims: int
    planes: tuple[tuple[int, int], ...] = ((0, 1),)

    @classmethod
    def about_all_axes(cls, dims: int) -> QuarterTurns:
        """Turn in every plane: 4 ways in 2D, in 3D 10 of the 24 that a cube can lie in."""
        return cls(dims, tuple(combinations(range(dims), 2)))

    @property
    def count(self) -> int:
        """Number of turns, turn 0 included."""
        return 1 + 3 * len(self.planes)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of space that a turn exchanges or reverses."""
        return tuple(sorted({axis for plane in self.planes for axis in plane}))

    def __call__(self, image: Tensor, turn: int) -> Tensor:
        """Turn ``... *space``.

        >>> QuarterTurns(2)(torch.tensor([[1, 2], [3, 4]]), 1)
        tensor([[2, 4],
                [1, 3]])
        """
        if not turn:
            return image
        plane, quarters = self.planes[(turn - 1) // 3], (turn - 1) % 3 + 1
        return torch.rot90(image, quarters, [axis - self.dims for axis in plane])

    def undo(self, image: Tensor, turn: int) -> Tensor:
        """Turn ``... *space`` back."""
        opposite = turn if not turn else turn + (2, 0, -2)[(turn - 1) % 3]
        return self(image, opposite)

    def check(self, patch: Sequence[int]) -> None:
        """Refuse patches [voxel] that do not fit their own place when they are turned.

        Raises
        ------
        OptionError
            Naming edges that do.
        """
        turned = {patch[axis] for axis in self.axes}
        if len(turned) > 1:
            fits = [min(turned) if axis in self.axes else edge for axis, edge in enumerate(patch)]
            raise OptionError(
                f"--patch-size is {' '.join(map(str, patch))}, and a patch that is turned must fit its own place",
                f"Give equal edges where it turns: --patch-size {' '.join(map(str, fits))}.",
            )

    def all(
        self, images: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "copies channel *space"], Tensor]:
        """Turn each image in all ways: the copies, those of an image side by side, and which turn each is."""
        copies = torch.stack([self(images, turn) for turn in range(self.count)], dim=1)
        turns = torch.arange(self.count, device=images.device).repeat(len(images))
        return copies.flatten(0, 1), turns


def giveaway(
    turns: QuarterTurns,
    patch: Sequence[int],
    space: Sequence[int],
    spacing: Sequence[float] | None,
) -> ScanError | None:
    """Say what of a scan would tell how its patches were turned, whatever they show: padding, or unequal voxels.

    Parameters
    ----------
    turns
        How patches are turned.
    patch, space
        Edges of a patch and of the scan [voxel].
    spacing
        Voxel edge lengths of the scan [mm]; None where unknown.
    """
    pairs = [
        (space[axis], edge) for axis, edge in enumerate(patch[: turns.dims]) if axis in turns.axes
    ]
    if any(extent < edge for extent, edge in pairs):
        fits = min(extent for extent, _ in pairs)
        edges = [
            fits if axis in turns.axes else edge for axis, edge in enumerate(patch[: turns.dims])
        ]
        return ScanError(
            f"has {' x '.join(map(str, space))} voxels, fewer than a patch, and padding would tell how it was turned",
            f"Give --patch-size {' '.join(map(str, edges))} or less, or leave it out.",
        )
    if spacing is None:
        return None
    for one, other in turns.planes:
        low, high = sorted((spacing[one], spacing[other]))
        if high > ALIKE * low:
            alike = " ".join([f"{max(spacing):g}"] * len(spacing))
            return ScanError(
                f"has voxels of {' x '.join(f'{edge:g}' for edge in spacing)} mm, which would tell how it was turned",
                f"Give --spacing {alike}, or leave it out.",
            )
    return None


def inscribed(space: Sequence[int], axes: Sequence[int]) -> Bool[Tensor, "*space"]:
    """Tell what lies inside the circle, cylinder or ball that touches an image's sides: it stays in sight at any turn.

    Parameters
    ----------
    space
        Edges of the image [voxel].
    axes
        Axes of space that turns exchange.

    >>> inscribed((4, 4), (0, 1)).int()
    tensor([[0, 1, 1, 0],
            [1, 1, 1, 1],
            [1, 1, 1, 1],
            [0, 1, 1, 0]], dtype=torch.int32)
    """
    squared = torch.zeros(tuple(space))
    for axis in axes:
        along = [1] * len(space)
        along[axis] = space[axis]
        centred = (2 * torch.arange(space[axis]) + 1 - space[axis]) / space[axis]
        squared = squared + centred.square().view(along)
    return squared <= 1
