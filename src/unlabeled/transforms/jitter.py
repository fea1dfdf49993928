"""Brightness and contrast changed by random factors, as photographs are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from unlabeled.transforms._draws import uniforms


@dataclass(frozen=True)
class Jitter:
    """Multiply intensities by one factor and their distance from the mean by another, in random order.

    Intensities are in [0, 1] and stay there after each of the two.  All channels change alike.

    Parameters
    ----------
    brightness, contrast
        Largest change of each factor, which is uniform around 1 and not below 0.

    Notes
    -----
    Source: torchvision's ColorJitter; its saturation and hue do nothing to grey images and are left out.
    """

    brightness: float = 0.4
    contrast: float = 0.4

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``."""
        first, second, order = uniforms(3, rng)
        factors = (
            max(0.0, 1 + (2 * first - 1) * self.brightness),
            max(0.0, 1 + (2 * second - 1) * self.contrast),
        )
        if order < 0.5:
            return stretch(brighten(image, factors[0]), factors[1])
        return brighten(stretch(image, factors[1]), factors[0])


def brighten(image: Tensor, factor: float) -> Tensor:
    """Multiply intensities and clip them to [0, 1]."""
    return (image * factor).clamp_(0, 1)


def stretch(image: Tensor, factor: float) -> Tensor:
    """Multiply the distance from the image's mean and clip to [0, 1].

    >>> import torch
    >>> stretch(torch.tensor([0.25, 0.75]), 0.5)
    tensor([0.3750, 0.6250])
    """
    mean = image.mean()
    return ((image - mean) * factor + mean).clamp_(0, 1)
