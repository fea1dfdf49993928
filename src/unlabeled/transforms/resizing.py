"""Changing the size of an image, and crops that are enlarged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from unlabeled.transforms._axes import along_axes


def resize_linear(image: Tensor, space: Sequence[int]) -> Tensor:
    """Interpolate linearly along each axis of space, as scikit-image does: beyond the border the image is mirrored.

    Parameters
    ----------
    image
        ``... *axes`` with as many last axes as `space` names.
    space
        New edges [voxel], not smaller than the old ones (nothing is smoothed).

    >>> resize_linear(torch.tensor([0.0, 4.0]), (4,))
    tensor([1., 1., 3., 3.])
    """
    pairs = zip(image.shape[image.ndim - len(space) :], space, strict=True)
    kind = image.dtype
    weights = [None if old == new else _weights(old, new, kind) for old, new in pairs]
    return along_axes(image, weights)


def resize_smooth(image: Tensor, space: Sequence[int]) -> Tensor:
    """Interpolate linearly along each axis of space, smoothed where an axis shrinks.

    Every new voxel is a mean of old ones whose weights fall linearly to 0 over as far as the next new voxel, or the
    next old one where that is farther; beyond the border there is nothing to take.

    Parameters
    ----------
    image
        ``... *axes`` with as many last axes as `space` names.
    space
        New edges [voxel].

    >>> resize_smooth(torch.tensor([0.0, 1.0, 2.0, 9.0]), (2,))
    tensor([0.7143, 4.8571])
    """
    pairs = zip(image.shape[image.ndim - len(space) :], space, strict=True)
    return along_axes(image, [None if old == new else _hats(old, new) for old, new in pairs])


@lru_cache(maxsize=64)
def _hats(old: int, new: int) -> Tensor:
    """Give what each new voxel takes of each old one: ``new old``, rows of sum 1."""
    step = old / new
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * step - 0.5
    apart = (torch.arange(old, dtype=torch.float64) - centre).abs()
    weights = (1 - apart / max(1.0, step)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


@lru_cache(maxsize=64)
def _weights(old: int, new: int, dtype: torch.dtype) -> Tensor:
    """Give what each new voxel takes of each old one: ``new old``, to be read alone."""
    at = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    below = at.floor()
    share = at - below
    weights = torch.zeros(new, old, dtype=torch.float64)
    for index, part in ((below, 1 - share), (below + 1, share)):
        inside = index.long().abs()
        inside = torch.where(inside >= old, (2 * (old - 1) - inside).clamp(min=0), inside)
        weights.index_put_((torch.arange(new), inside), part, accumulate=True)
    return weights.to(dtype)


@dataclass(frozen=True)
class CropResize:
    """Cut a box at a random place and enlarge it to the image's own size.

    Parameters
    ----------
    share
        Edges of the box over those of the image.
    first, last
        Where the box may start: the first and last voxel over the image's edge; a box never leaves the image.
    """

    share: float
    first: float = 0.0
    last: float = 1.0

    def draw(self, space: Sequence[int], rng: Generator) -> tuple[slice, ...]:
        """Draw a box in an image with these edges [voxel]; start positions are evenly likely whole voxels."""
        box = []
        for edge in space:
            size = min(edge, max(1, round(self.share * edge)))
            stop = min(round(self.last * edge), edge - size)
            start = min(round(self.first * edge), stop)
            begin = int(torch.randint(start, stop + 1, (), generator=rng))
            box.append(slice(begin, begin + size))
        return tuple(box)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Cut and enlarge ``channel *space``."""
        space = image.shape[1:]
        return resize_linear(image[(slice(None), *self.draw(space, rng))], space)
