"""Brightness and contrast: one number added, the distance from the mean stretched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


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
