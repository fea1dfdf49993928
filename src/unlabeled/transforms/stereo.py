"""Stereo pairs: kept in the store beside one another, and changed so that they stay a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from unlabeled.data.scan import Scan
from unlabeled.errors import ScanError
from unlabeled.transforms._draws import chance, uniforms
from unlabeled.transforms.pictures import as_levels

VIEWS = "views"  # of `Record.extras`: levels of one picture or of left and right


@dataclass(frozen=True)
class KeepViews:
    """Keep a frame, or the left and the right picture of a pair, resized, as levels from 0 to 255.

    A preparation: adds ``views``, ``3 rows columns`` or ``6 rows columns``, left before right, to the extras.  Both pictures
    keep one scale of intensities, as their colours are compared.

    Parameters
    ----------
    rows, columns
        Of the result [pixel].
    """

    rows: int
    columns: int

    def __call__(self, scan: Scan) -> Scan:
        """Add the pictures of a scan.

        Raises
        ------
        ScanError
            It is a volume, or has neither one nor two pictures.
        """
        channels = len(scan.array)
        if scan.dims != 2 or channels not in (1, 2, 3, 6):
            raise ScanError(
                f"has {channels} channel(s) on {scan.dims} axes: neither a picture nor a stereo pair",
                "Give one picture, or left and right as left.png;right.png in the column image.",
            )
        each = channels if channels in (1, 3) else channels // 2
        views = [
            self._fit(as_levels(replace(scan, array=scan.array[first : first + each])))
            for first in range(0, channels, each)
        ]
        return replace(scan, extras={**scan.extras, VIEWS: np.concatenate(views)})

    def _fit(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
        fitted = picture.resize((self.columns, self.rows), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


@dataclass(frozen=True)
class StereoFlip:
    """Mirror left and right, and exchange the two pictures of a pair: disparities stay positive.

    Parameters
    ----------
    p
        Probability.
    """

    p: float = 0.5

    def draw(self, rng: Generator) -> bool:
        """Draw whether to mirror."""
        return chance(self.p, rng)

    def __call__(self, views: Tensor, rng: Generator) -> Tensor:
        """Change ``3|6 rows columns``."""
        return flip_views(views) if self.draw(rng) else views.clone()


def flip_views(views: Tensor) -> Tensor:
    """Mirror ``3|6 rows columns`` and let what was the right picture be the left one.

    >>> flip_views(torch.arange(12.0).view(6, 1, 2))[:, 0].tolist()[:2]
    [[7.0, 6.0], [9.0, 8.0]]
    """
    return torch.cat(views.flip(-1).chunk(len(views) // 3)[::-1])


@dataclass(frozen=True)
class SharedColour:
    """Change gamma, brightness and colours of both pictures by one draw (Godard et al., CVPR 2017).

    Parameters
    ----------
    p
        Probability.
    gamma, brightness, colour
        Ranges of the exponent, of the factor, and of a factor for each of red, green and blue.
    """

    p: float = 0.5
    gamma: tuple[float, float] = (0.8, 1.2)
    brightness: tuple[float, float] = (0.5, 2.0)
    colour: tuple[float, float] = (0.8, 1.2)

    def __call__(self, views: Tensor, rng: Generator) -> Tensor:
        """Change ``3|6 rows columns`` in [0, 1]; the result stays there."""
        if not chance(self.p, rng):
            return views.clone()
        ranges = (self.gamma, self.brightness, self.colour, self.colour, self.colour)
        drawn = zip(ranges, uniforms(5, rng), strict=True)
        gamma, brightness, *colours = [low + (high - low) * at for (low, high), at in drawn]
        factors = views.new_tensor(colours * (len(views) // 3)).view(-1, 1, 1) * brightness
        return (views.pow(gamma) * factors).clamp(0, 1)
