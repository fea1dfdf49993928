"""A U-Net whose way up ends at a quarter of the image's resolution (Li et al., MICCAI 2020, as in the official code)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.points import enlarge

_CHANNELS = (32, 64, 128, 256, 512)


class InstanceBlock(nn.Module):
    """Convolution, instance normalisation without weights of its own, ReLU; ``batch channel *space`` stays as large."""

    def __init__(
        self, dims: int, entering: int, leaving: int, edge: int = 3, dilation: int = 1
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        padding = dilation * (edge // 2)
        self.conv = convolution(entering, leaving, edge, padding=padding, dilation=dilation)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the block."""
        return F.relu(F.instance_norm(self.conv(image)), inplace=True)


class DilatedPair(nn.Sequential):
    """Two blocks, the first with gaps between the voxels that it looks at."""

    def __init__(self, dims: int, entering: int, leaving: int) -> None:
        super().__init__(
            InstanceBlock(dims, entering, leaving, dilation=2),
            InstanceBlock(dims, leaving, leaving),
        )


class AsymmetricEncoder(Encoder):
    """Contracting half: a stem at half the resolution, then four times a maximum over 2 and two blocks.

    Feature maps have 32, 64, 128, 256 and 512 channels at strides 2 to 32.  Images of any size serve whose coarsest map
    has two positions: odd edges are halved rounding up.  In 2D, the same layers with one axis less (ours).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "stem.0.conv"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "asym-unet", dims, in_channels
        self.channels = _CHANNELS
        self.strides = tuple((2**level,) * dims for level in range(1, len(_CHANNELS) + 1))
        first = _CHANNELS[0]
        self.stem = nn.Sequential(
            InstanceBlock(dims, in_channels, first, edge=5), InstanceBlock(dims, first, first)
        )
        self.levels = nn.ModuleList(DilatedPair(dims, *pair) for pair in pairwise(_CHANNELS))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute one map a level from ``batch channel *space``, fine to coarse."""
        check_image(self, image, positions=2)
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        maps = [pool(self.stem(image), 2, ceil_mode=True)]
        for level in self.levels:
            maps.append(level(pool(maps[-1], 2, ceil_mode=True)))
        return maps


class QuarterDecoder(nn.Module):
    """Expanding half up to a quarter of the resolution, and logits there; no way up to the full one.

    Parameters
    ----------
    encoder
        Any encoder with a map of stride 4 or more; the finest of these is where the way up ends.
    classes
        How many.

    Attributes
    ----------
    level
        Place among the encoder's maps of the one where the way up ends.
    width
        Channels there.
    """

    def __init__(self, encoder: Encoder, *, classes: int) -> None:
        super().__init__()
        coarse = [place for place, strides in enumerate(encoder.strides) if max(strides) >= 4]
        if not coarse:
            raise OptionError(
                f"{encoder.name} has no map at a quarter of the resolution",
                "Give --encoder asym-unet or resenc-tiny.",
            )
        dims, self.level = encoder.dims, coarse[0]
        channels = encoder.channels[self.level :]
        self.width = channels[0]
        steps = zip(channels[:0:-1], channels[-2::-1], strict=True)
        self.steps = nn.ModuleList(DilatedPair(dims, below + skip, skip) for below, skip in steps)
        narrow = max(1, self.width // 2)
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.head = nn.Sequential(
            InstanceBlock(dims, self.width, narrow), convolution(narrow, classes, 1)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Give the decoded map and the coarse logits, both ``batch channel *quarter``."""
        *skips, out = features[self.level :]
        for step in self.steps:
            skip = skips.pop()
            out = step(torch.cat([enlarge(out, skip.shape[2:], corners=True), skip], 1))
        return out, self.head(out)
