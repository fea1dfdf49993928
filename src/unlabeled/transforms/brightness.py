"""Brightness and contrast: a number added, the distance from the mean stretched, intensities multiplied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unlabeled.transforms._draws import chance, uniforms


@dataclass(frozen=True)
class BrightnessContrast:
    """Add a random number, stretch around the image's mean by a random factor, and clip.

    Drawn on the processor with the samples and applied to whole batches on the device.

    Parameters
    ----------
    brightness
        Largest number added or taken away.
    contrast
        Largest change of the factor, which is uniform around 1.
    high
        Intensities end in [0, high].
    """

    brightness: float = 0.3
    contrast: float = 0.3
    high: float = 1.5

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Draw so many changes: ``count 2``, the number to add and the factor."""
        span = torch.tensor([self.brightness, self.contrast])
        return (2 * torch.rand(count, 2, generator=rng) - 1) * span + torch.tensor([0.0, 1.0])

    def apply(self, images: Tensor, changes: Tensor) -> Tensor:
        """Change images ``... channel rows columns`` by ``... 2``; the mean is each channel's own.

        >>> ramp = torch.tensor([[[0.0, 1.0]]])
        >>> BrightnessContrast().apply(ramp, torch.tensor([0.5, 0.5]))     # mean 1 after the shift
        tensor([[[0.7500, 1.2500]]])
        """
        added, factor = changes[..., None, None, None, :].unbind(-1)
        brighter = images + added
        mean = brighter.mean((-2, -1), keepdim=True)
        return ((brighter - mean) * factor + mean).clamp(0.0, self.high)


@dataclass(frozen=True)
class Gain:
    """Multiply intensities by a random factor and clip them to the image's own range.

    Parameters
    ----------
    most
        Largest change of the factor, which is uniform around 1.
    p
        Probability.
    """

    most: float = 0.25
    p: float = 1.0

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``; all channels share factor and range."""
        if not chance(self.p, rng):
            return image.clone()
        return multiply(image, 1 + self.most * (2 * uniforms(1, rng)[0] - 1))


def multiply(image: Tensor, factor: float) -> Tensor:
    """Multiply intensities; none leaves the range from the image's smallest to its largest.

    >>> multiply(torch.tensor([-1.0, 1.0, 2.0]), 1.5)
    tensor([-1.0000,  1.5000,  2.0000])
    """
    low, high = image.aminmax()
    return (image * factor).clamp_(low, high)
