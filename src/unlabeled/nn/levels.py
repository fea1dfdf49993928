"""The frame of every U-Net here: two blocks a level, a maximum over 2 on the way down, skips on the way up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.decoders import fit
from unlabeled.nn.encoders import Encoder, check_image

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


class HalvingEncoder(Encoder):
    """A contracting half that takes images of any size: odd edges are halved rounding up.

    Parameters
    ----------
    name
        As in ``--encoder``.
    levels
        Each keeps the edges of what enters it; a maximum over 2 comes in between.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    channels
        That leave each level.
    """

    def __init__(
        self,
        name: str,
        levels: nn.ModuleList,
        *,
        dims: int,
        in_channels: int,
        channels: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels, self.channels = name, dims, in_channels, channels
        self.strides = tuple((2**level,) * dims for level in range(len(channels)))
        self.levels = levels

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute one map a level from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        return go_down(self.levels, image, ceil_mode=True)


def steps_up(channels: Sequence[int]) -> list[tuple[int, int]]:
    """Pair the channels that come from below with those of the skip, coarse to fine, where each level leaves the skip's.

    >>> steps_up((16, 32, 64))
    [(64, 32), (32, 16)]
    """
    return list(zip(channels[:0:-1], channels[-2::-1], strict=True))


class Doubled(nn.Sequential):
    """A level of an expanding half: repeat each voxel, set the skip behind, then what it was made of."""

    def forward(self, image: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Compute ``batch channel *space`` on the skip's grid."""
        doubled = fit(F.interpolate(image, scale_factor=2), skip.shape[2:])
        merged = torch.cat([doubled, skip], dim=1)
        for layer in self:
            merged = layer(merged)
        return merged


class SkipDecoder(nn.Module):
    """An expanding half: a level for each skip, coarse to fine, then the head.

    Parameters
    ----------
    levels
        Each takes the coarser map and its skip.
    head
        Layers of the task, without activation at the end.

    Attributes
    ----------
    head
        The only part that another task replaces.
    """

    def __init__(self, levels: Iterable[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.head = head

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Compute ``batch out_channels *space`` without activation at the end.

        The finest map has the image's own resolution, so `space`, which other decoders need, changes nothing.
        """
        *skips, image = features
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            image = level(image, skip)
        decoded: Tensor = self.head(image)
        return decoded
