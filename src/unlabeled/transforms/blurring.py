"""Random blur."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unlabeled.transforms._axes import along_axes
from unlabeled.transforms._draws import chance, uniforms

_REACH = 4  # widths after which the bell is cut off (as in SciPy)


@dataclass(frozen=True)
class Blur:
    """Blur an image by a Gaussian of random width.

    Parameters
    ----------
    low, high
        Smallest and largest width, the deviation of the Gaussian [voxel]; it is uniform between them.
    p
        Probability that the image is blurred at all.
    each_axis
        Whether every axis has a width of its own.
    """

    low: float = 0.0
    high: float = 2.0
    p: float = 1.0
    each_axis: bool = False

    def draw(self, dims: int, rng: Generator) -> tuple[float, ...]:
        """Draw a width for each axis of space [voxel]."""
        count = dims if self.each_axis else 1
        widths = [self.low + (self.high - self.low) * each for each in uniforms(count, rng)]
        return tuple(widths) if self.each_axis else tuple(widths * dims)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Blur ``channel *space``."""
        return blur(image, self.draw(image.ndim - 1, rng)) if chance(self.p, rng) else image.clone()


def blur(image: Tensor, widths: tuple[float, ...]) -> Tensor:
    """Blur the last axes of an image by Gaussians of given deviations [voxel]; beyond its borders it is mirrored.

    >>> blur(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), (0.5,)).mul(100).round()
    tensor([ 0., 11., 79., 11.,  0.])
    """
    edges = image.shape[image.ndim - len(widths) :]
    bells = [
        None if width == 0 else _bells(edge, width)
        for edge, width in zip(edges, widths, strict=True)
    ]
    return along_axes(image, bells) if any(bell is not None for bell in bells) else image.clone()


def _bells(edge: int, width: float) -> Tensor:
    """Give what each voxel takes of each: ``edge edge``, mirrored at the outer borders of the first and the last."""
    reach = math.floor(_REACH * width + 0.5)
    steps = torch.arange(-reach, reach + 1)
    bell = torch.exp(-0.5 * (steps / width).square())
    places = (torch.arange(edge)[:, None] + steps) % (2 * edge)
    places = torch.minimum(places, 2 * edge - 1 - places)
    weights = torch.zeros(edge, edge)
    return weights.scatter_add_(1, places, (bell / bell.sum()).expand(edge, -1))
