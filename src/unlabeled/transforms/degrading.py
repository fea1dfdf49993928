"""Noise and blur: what a worse scanner would do to an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]
from torch import Generator, Tensor

from unlabeled.transforms._draws import chance, uniforms


@dataclass(frozen=True)
class GaussianNoise:
    """Add noise to every voxel of every channel by itself.

    Parameters
    ----------
    most
        Largest variance, in squared units of the intensities; the variance is uniform from 0.
    p
        Probability.
    """

    most: float = 0.1
    p: float = 1.0

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``."""
        if not chance(self.p, rng):
            return image.clone()
        deviation = math.sqrt(self.most * uniforms(1, rng)[0])
        return image + deviation * torch.randn(image.shape, generator=rng, dtype=image.dtype)


@dataclass(frozen=True)
class GaussianBlur:
    """Blur all channels alike; beyond the border the outer voxels are repeated.

    Parameters
    ----------
    low, high
        Range of the deviation [voxel], which is uniform and the same along all axes.
    p
        Probability.
    """

    low: float = 0.5
    high: float = 1.0
    p: float = 1.0

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``, on the processor."""
        if not chance(self.p, rng):
            return image.clone()
        sigma = self.low + (self.high - self.low) * uniforms(1, rng)[0]
        return blur(image, sigma)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur ``channel *space`` with a deviation [voxel], cut off beyond three of it.

    >>> blur(torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]), 0.5)[0, 2:5]
    tensor([0.1065, 0.7866, 0.1065])
    """
    axes = tuple(range(1, image.ndim))
    numbers = image.numpy()
    return torch.from_numpy(
        gaussian_filter(numbers, sigma, mode="nearest", truncate=3.0, axes=axes)
    )
