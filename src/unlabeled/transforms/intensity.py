"""Intensity curves: monotone maps of [0, 1] onto itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from unlabeled.transforms import _kernels
from unlabeled.transforms._draws import chance, uniforms

_SMALLEST_RANGE = 1e-5  # added to the range, for constant images (official code)
_CHORDS = 2048  # of a curve; errors stay below 1e-5, which a test asserts


@dataclass(frozen=True)
class BezierCurve:
    """A cubic Bezier curve from (0, 0) to (1, 1), or its inverted twin from (0, 1) to (1, 0).

    With both inner points in the unit square, both coordinates rise along the curve, so it is the graph of a
    monotone function; the twin pairs the rising abscissae with the falling ordinates.

    Parameters
    ----------
    first, second
        Inner control points (abscissa, ordinate), each in [0, 1].
    inverted
        Whether dark becomes bright.
    """

    first: tuple[float, float]
    second: tuple[float, float]
    inverted: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Map every intensity of a floating image; intensities outside [0, 1] clamp.

        >>> BezierCurve((0.25, 0.25), (0.75, 0.75), inverted=True)(torch.tensor([0.0, 0.25, 2.0]))
        tensor([1.0000, 0.7500, 0.0000])
        """
        if not image.is_floating_point():
            raise TypeError(f"an intensity curve needs intensities in [0, 1], not {image.dtype}")
        xs = np.array([0.0, self.first[0], self.second[0], 1.0])
        ys = np.array([0.0, self.first[1], self.second[1], 1.0])
        flat = image.detach().to("cpu", torch.float32).reshape(-1).numpy()
        mapped = np.empty_like(flat)
        _kernels.apply_bezier(flat, xs, ys[::-1].copy() if self.inverted else ys, _CHORDS, mapped)
        return torch.from_numpy(mapped).reshape(image.shape).to(image.device, image.dtype)


@dataclass(frozen=True)
class BezierIntensity:
    """Map the intensities of all channels through one random Bezier curve (Models Genesis, "non-linear").

    Parameters
    ----------
    p
        Probability that the image is mapped at all.
    p_invert
        Share of inverted curves among those drawn.
    """

    p: float = 1.0
    p_invert: float = 0.5

    def draw(self, rng: Generator) -> BezierCurve:
        """Draw a curve: inner control points uniform in the unit square."""
        a, b, c, d = uniforms(4, rng)
        return BezierCurve((a, b), (c, d), chance(self.p_invert, rng))

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Map ``channel *space``, intensities in [0, 1]."""
        return self.draw(rng)(image) if chance(self.p, rng) else image.clone()


@dataclass(frozen=True)
class RandomGamma:
    """Raise intensities to a random power, between the image's own smallest and largest (Ouyang et al., ECCV 2020).

    Parameters
    ----------
    low, high
        Range of the power; 1 changes nothing.
    p
        Probability.
    """

    low: float = 0.5
    high: float = 1.5
    p: float = 1.0

    def draw(self, rng: Generator) -> float:
        """Draw a power."""
        return self.low + (self.high - self.low) * uniforms(1, rng)[0]

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``; all channels share range and power.  Where it is certain, no chance is drawn."""
        if self.p < 1 and not chance(self.p, rng):
            return image.clone()
        return raise_to(image, self.draw(rng))


def raise_to(image: Tensor, power: float) -> Tensor:
    """Raise intensities to a power within their range, ``r ((x - min) / r) ** power + min``, where `r` is max - min.

    >>> raise_to(torch.tensor([2.0, 3.0, 4.0]), 2.0)
    tensor([2.0000, 2.5000, 4.0000])
    """
    low, high = image.amin(), image.amax()
    spread = high - low + _SMALLEST_RANGE
    return spread * ((image - low + _SMALLEST_RANGE) / spread) ** power + low


@dataclass(frozen=True)
class GainOffset:
    """Multiply intensities by a random factor and add a random number: another scanner, another slice.

    Parameters
    ----------
    gain
        Smallest and largest factor.
    offset
        Largest number added or taken away.
    """

    gain: tuple[float, float] = (0.9, 1.1)
    offset: float = 0.05

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Change ``channel *space``; all channels alike."""
        factor, added = uniforms(2, rng)
        low, high = self.gain
        return (image * (low + (high - low) * factor)).add_(self.offset * (2 * added - 1))
