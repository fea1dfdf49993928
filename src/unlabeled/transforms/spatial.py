"""Flips and other changes of place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unlabeled.transforms._draws import uniforms


@dataclass(frozen=True)
class RepeatedFlip:
    """Flip a random axis of space, again and again while chance has it (Models Genesis).

    Parameters
    ----------
    p
        Probability of each further flip.
    axes
        Axes of space to choose from, from 0; a None among them is a choice that flips nothing.  Without it, all.
    most
        Flips after which no further one is drawn.
    """

    p: float = 0.4
    axes: tuple[int | None, ...] | None = None
    most: int = 3

    def draw(self, dims: int, rng: Generator) -> tuple[int | None, ...]:
        """Draw the axes to flip, in order, of an image with `dims` axes of space."""
        choices = tuple(range(dims)) if self.axes is None else self.axes
        numbers = uniforms(2 * self.most, rng)
        drawn: list[int | None] = []
        for again, which in zip(numbers[::2], numbers[1::2], strict=True):
            if again >= self.p:
                break
            drawn.append(choices[int(which * len(choices))])
        return tuple(drawn)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Flip ``channel *space``."""
        drawn = self.draw(image.ndim - 1, rng)
        odd = [axis + 1 for axis in range(image.ndim - 1) if drawn.count(axis) % 2]
        return torch.flip(image, odd) if odd else image.clone()


@dataclass(frozen=True)
class EdgeShift:
    """Move an image by whole voxels and repeat its edge behind it (Beliy et al., NeurIPS 2019).

    Parameters
    ----------
    most
        Largest shift along each axis [voxel]; 0 moves nothing.
    """

    most: int = 5

    def draw(self, dims: int, rng: Generator) -> tuple[int, ...]:
        """Draw a shift for each axis of space, evenly from ``-most`` to ``most``."""
        drawn = torch.randint(-self.most, self.most + 1, (dims,), generator=rng)
        return tuple(drawn.tolist())

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Shift ``channel *space``."""
        return shift_edges(image, self.draw(image.ndim - 1, rng))


def shift_edges(image: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Move ``channel *space`` towards higher positions by whole voxels; what comes in repeats the edge.

    >>> shift_edges(torch.tensor([[1, 2, 3]]), (1,))
    tensor([[1, 1, 2]])
    """
    for axis, by in enumerate(shift, start=1):
        edge, most = image.shape[axis], min(abs(by), image.shape[axis])
        new = list(image.shape)
        new[axis] = most
        border = image.narrow(axis, 0 if by > 0 else edge - 1, 1).expand(new)
        kept = image.narrow(axis, 0 if by > 0 else most, edge - most)
        image = torch.cat([border, kept] if by > 0 else [kept, border], axis)
    return image
