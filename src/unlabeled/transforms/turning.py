"""Quarter turns and a flip: the eight ways to lay a square, which move no value off the grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class SquareTurn:
    """Turn an image by a random number of quarters in the plane of its first two axes, and flip it half of the time.

    No value is interpolated, so noise that is independent from voxel to voxel stays so.  Where the two edges differ,
    half turns alone are drawn, as the image's shape stays.
    """

    def draw(self, space: tuple[int, ...], rng: Generator) -> int:
        """Draw one of the eight ways of `turn_square`, or one of the four that keep unequal edges."""
        number = int(torch.randint(8, (), generator=rng))
        return number if space[0] == space[1] else number // 2 * 2

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Turn ``channel *space``."""
        return turn_square(image, self.draw(tuple(image.shape[1:]), rng))


def turn_square(image: Tensor, number: int) -> Tensor:
    """Lay ``channel *space`` in one of eight ways: ``number % 4`` quarter turns, from 4 on flipped along the first axis.

    >>> turn_square(torch.tensor([[[1, 2], [3, 4]]]), 1)
    tensor([[[2, 4],
             [1, 3]]])
    >>> turn_square(torch.tensor([[[1, 2], [3, 4]]]), 4)
    tensor([[[3, 4],
             [1, 2]]])
    """
    turned = torch.rot90(image, number % 4, (1, 2))
    return (turned.flip(1) if number >= 4 else turned).contiguous()
