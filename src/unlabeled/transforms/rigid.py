"""Rotations and mirror images of pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.transforms._draws import chance, uniforms


@dataclass(frozen=True)
class Rotate:
    """Rotate a picture about its centre by a random angle; what comes in from outside is 0.

    Parameters
    ----------
    most
        Largest angle, either way [degree]; the angle is uniform.
    """

    most: float = 10.0

    def draw(self, rng: Generator) -> float:
        """Draw an angle [degree]."""
        return (2 * uniforms(1, rng)[0] - 1) * self.most

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Rotate ``channel rows columns``."""
        return rotate(image, self.draw(rng))


def rotate(image: Tensor, angle: float) -> Tensor:
    """Rotate ``channel rows columns`` counter-clockwise about its centre [degree], linearly interpolated.

    >>> rotate(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), 90).round()
    tensor([[[2., 4.],
             [1., 3.]]])
    """
    if angle == 0:
        return image.clone()
    rows, columns = image.shape[1:]
    turn = math.radians(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    # where each pixel comes from, in coordinates that run from -1 to 1 along both axes
    matrix = image.new_tensor(
        [[[cosine, -sine * rows / columns, 0], [sine * columns / rows, cosine, 0]]]
    )
    grid = F.affine_grid(matrix, [1, 1, rows, columns], align_corners=False)
    return F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class Mirror:
    """Mirror an image along one axis.

    Parameters
    ----------
    p
        Probability.
    axis
        Axis of space, from 0; negative from the last.
    """

    p: float = 0.5
    axis: int = -1

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Mirror ``channel *space``."""
        mirrored = chance(self.p, rng)
        axis = self.axis if self.axis < 0 else self.axis + 1
        return torch.flip(image, [axis]) if mirrored else image.clone()
