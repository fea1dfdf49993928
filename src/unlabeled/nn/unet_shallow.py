"""A shallow U-Net of three levels that normalises once a level (Kayal et al., MICCAI 2020, as in the published code)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.decoders import fit
from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.levels import go_down, go_up
from unlabeled.nn.unet import SwitchableBatchNorm

_CHANNELS = (16, 32, 64)


class ConvPair(nn.Module):
    """Two convolutions of edge 3, each with ReLU, then one batch normalisation; ``batch channel *space`` stays as large."""

    def __init__(self, dims: int, entering: int, leaving: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.first = convolution(entering, leaving, kernel_size=3, padding=1)
        self.second = convolution(leaving, leaving, kernel_size=3, padding=1)
        self.norm = SwitchableBatchNorm(leaving)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the level."""
        inner = F.relu(self.first(image), inplace=True)
        normalised: Tensor = self.norm(F.relu(self.second(inner), inplace=True))
        return normalised


class ShallowUNetEncoder(Encoder):
    """Contracting half: a `ConvPair` a level of 16, 32 and 64 channels, a maximum over 2 in between.

    Images of any size serve: odd edges are halved rounding up (the published network takes multiples of 4 alone).
    In 2D, the same layers with one axis less (ours).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "levels.0.first"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "unet-shallow", dims, in_channels
        self.channels = _CHANNELS
        self.strides = tuple((2**level,) * dims for level in range(len(_CHANNELS)))
        entering = (in_channels, *_CHANNELS)
        pairs = zip(entering, _CHANNELS, strict=False)
        self.levels = nn.ModuleList(ConvPair(dims, come, leave) for come, leave in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute three maps from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        return go_down(self.levels, image, ceil_mode=True)


class UpPair(nn.Module):
    """Repeat each voxel, set the skip beside it, then a `ConvPair`."""

    def __init__(self, dims: int, coarse: int, skip: int) -> None:
        super().__init__()
        self.pair = ConvPair(dims, coarse + skip, skip)

    def forward(self, image: Tensor, skip: Tensor) -> Tensor:
        """Compute ``batch skip *space`` from the coarser map and the skip."""
        doubled = fit(F.interpolate(image, scale_factor=2), skip.shape[2:])
        merged: Tensor = self.pair(torch.cat([doubled, skip], dim=1))
        return merged


class ShallowUNetDecoder(nn.Module):
    """Expanding half: two `UpPair` and a convolution of edge 1.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.

    Attributes
    ----------
    head
        The last convolution: the only part that another task replaces.
    """

    def __init__(self, encoder: ShallowUNetEncoder, *, out_channels: int) -> None:
        super().__init__()
        dims = encoder.dims
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        *skips, coarse = encoder.channels
        self.levels = nn.ModuleList()
        for skip in reversed(skips):
            self.levels.append(UpPair(dims, coarse, skip))
            coarse = skip
        self.head = pointwise(coarse, out_channels, kernel_size=1)

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Compute ``batch out_channels *space`` without activation at the end.

        The finest map has the image's own resolution, so `space`, which other decoders need, changes nothing.
        """
        decoded: Tensor = self.head(go_up(self.levels, features))
        return decoded
