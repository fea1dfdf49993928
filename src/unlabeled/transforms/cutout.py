"""Squares of one value cut out of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

GREY = 0.449  # mean intensity of ImageNet's pictures, 0 once they are standardised


@dataclass(frozen=True)
class Cutout:
    """Cut square holes around random centres; what of a hole lies beyond the border is lost.

    Parameters
    ----------
    holes
        How many; they may overlap.
    edge
        Of a hole [voxel]; half of it (rounded down) lies on either side of the centre.
    fill
        What is in a hole.

    Notes
    -----
    Source: DeVries and Taylor, 2017, official code.
    """

    holes: int = 3
    edge: int = 32
    fill: float = 0.0

    def draw(self, space: Sequence[int], rng: Generator) -> list[tuple[int, ...]]:
        """Draw the centres, evenly among all voxels."""
        places = [torch.randint(edge, (self.holes,), generator=rng).tolist() for edge in space]
        return list(zip(*places, strict=True))

    def apply(self, image: Tensor, centres: Sequence[Sequence[int]]) -> Tensor:
        """Cut holes around these centres out of a copy of ``channel *space``.

        >>> Cutout(edge=2).apply(torch.ones(1, 4), [(0,)])
        tensor([[0., 1., 1., 1.]])
        """
        out, reach = image.clone(), self.edge // 2
        for centre in centres:
            hole = tuple(slice(max(0, at - reach), max(0, at + reach)) for at in centre)
            out[(slice(None), *hole)] = self.fill
        return out

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Cut holes out of a copy of ``channel *space``."""
        return self.apply(image, self.draw(image.shape[1:], rng))
