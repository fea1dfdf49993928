"""The frame of every U-Net here: two blocks a level, a maximum over 2 on the way down, skips on the way up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Block = Callable[[int, int, int], nn.Module]  # axes of space, entering and leaving channels


def stack_levels(
    block: Block, dims: int, in_channels: int, widths: Iterable[tuple[int, int]]
) -> nn.ModuleList:
    """Make the levels of a contracting half: the two blocks of each leave its two widths [channel]."""
    levels = nn.ModuleList()
    for middle, leaving in widths:
        first, second = block(dims, in_channels, middle), block(dims, middle, leaving)
        levels.append(nn.Sequential(first, second))
        in_channels = leaving
    return levels


def go_down(levels: Iterable[nn.Module], image: Tensor, *, ceil_mode: bool = False) -> list[Tensor]:
    """Compute one map a level from ``batch channel *space``, fine to coarse.

    Parameters
    ----------
    levels
        Each keeps the edges of what enters it.
    image
        ``batch channel *space``.
    ceil_mode
        Whether odd edges are halved rounding up rather than down.
    """
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d
    maps: list[Tensor] = []
    for level in levels:
        image = level(pool(image, 2, ceil_mode=ceil_mode) if maps else image)
        maps.append(image)
    return maps


def go_up(levels: Iterable[nn.Module], features: Sequence[Tensor]) -> Tensor:
    """Join the coarsest map with the skips, coarse to fine: each level takes an image and its skip."""
    *skips, image = features
    for level, skip in zip(levels, reversed(skips), strict=True):
        image = level(image, skip)
    return image
