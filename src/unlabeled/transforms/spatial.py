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
