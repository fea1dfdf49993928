"""Boxes of random area and shape, scaled to one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.transforms._draws import uniforms


@dataclass(frozen=True)
class ZoomCrop:
    """Cut a box of random area and shape out of a picture and scale it (random resized crop).

    Parameters
    ----------
    size
        Rows and columns of the result [pixel].
    least, most
        Area of the box over that of the picture: uniform between them.
    stretch
        Largest ratio of the box's edges, either way; its logarithm is uniform.
    widest
        Largest columns over rows, where it is not `stretch`.
    tries
        Boxes drawn until one fits; else the largest of allowed shape from the middle.

    Notes
    -----
    Source: Szegedy et al., CVPR 2015; as in torchvision, but for the rounding of intensities.
    """

    size: tuple[int, int]
    least: float = 0.2
    most: float = 1.0
    stretch: float = 4 / 3
    widest: float | None = None
    tries: int = 10

    def draw(self, space: Sequence[int], rng: Generator) -> tuple[tuple[int, int], tuple[int, int]]:
        """Draw the first pixel and the edges of a box inside a picture of these edges."""
        rows, columns = space
        for _ in range(self.tries):
            share, shape, down, right = uniforms(4, rng)
            area = rows * columns * (self.least + share * (self.most - self.least))
            ratio = self._ratio(shape)  # columns over rows
            high, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < high <= rows and 0 < wide <= columns:
                start = int(down * (rows - high + 1)), int(right * (columns - wide + 1))
                return start, (high, wide)
        high = min(rows, round(columns * self.stretch))
        wide = min(columns, round(rows * (self.stretch if self.widest is None else self.widest)))
        return ((rows - high) // 2, (columns - wide) // 2), (high, wide)

    def _ratio(self, share: float) -> float:
        longest = math.log(self.stretch)
        if self.widest is None:
            return math.exp((2 * share - 1) * longest)
        return math.exp(share * (math.log(self.widest) + longest) - longest)

    def resize(self, box: Tensor) -> Tensor:
        """Scale ``channel rows columns`` to `size`: linear, smoothed where it shrinks."""
        if box.shape[1:] == self.size:
            return box.clone()
        scaled = F.interpolate(box[None], self.size, mode="bilinear", antialias=True)
        return scaled[0]

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Cut and scale ``channel rows columns``."""
        (top, left), (high, wide) = self.draw(image.shape[1:], rng)
        return self.resize(image[:, top : top + high, left : left + wide])
