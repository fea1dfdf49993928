"""A narrow U-Net of six levels for slices (Chaitanya et al., NeurIPS 2020, as in the published code)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.decoders import fit
from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.levels import go_down, go_up, stack_levels
from unlabeled.nn.unet import ConvBlock, SwitchableBatchNorm

_CHANNELS = (16, 32, 64, 128, 128, 128)


class UNet6Encoder(Encoder):
    """Contracting half: two blocks of convolution, batch normalisation and ReLU a level, a maximum over 2 in between.

    Images of any size serve: odd edges are halved rounding up.  In 3D, the same layers with one more axis (ours: only
    the 2D network was published).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "levels.0.0.conv"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "unet-6", dims, in_channels
        self.channels = _CHANNELS
        self.strides = tuple((2**level,) * dims for level in range(len(_CHANNELS)))
        widths = [(leaving, leaving) for leaving in _CHANNELS]
        self.levels = stack_levels(ConvBlock, dims, in_channels, widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute six maps from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        return go_down(self.levels, image, ceil_mode=True)


class UpBlock(nn.Module):
    """Repeat each voxel, smooth by a convolution of edge 2, set the skip beside it, two blocks."""

    def __init__(self, dims: int, coarse: int, skip: int) -> None:
        super().__init__()
        self.dims = dims
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.smooth = convolution(coarse, skip, kernel_size=2)
        self.norm = SwitchableBatchNorm(skip)
        self.blocks = nn.Sequential(ConvBlock(dims, 2 * skip, skip), ConvBlock(dims, skip, skip))

    def forward(self, image: Tensor, skip: Tensor) -> Tensor:
        """Compute ``batch skip *space`` from the coarser map and the skip."""
        doubled = fit(F.interpolate(image, scale_factor=2), skip.shape[2:])
        smoothed = F.relu(self.norm(self.smooth(F.pad(doubled, (0, 1) * self.dims))))
        merged: Tensor = self.blocks(torch.cat([smoothed, skip], dim=1))
        return merged


class UNet6Decoder(nn.Module):
    """Expanding half: five `UpBlock`, two more blocks and a convolution.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.

    Attributes
    ----------
    head
        The two blocks and the convolution that belong to one task.
    """

    def __init__(self, encoder: UNet6Encoder, *, out_channels: int) -> None:
        super().__init__()
        dims = encoder.dims
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        *skips, coarse = encoder.channels
        self.levels = nn.ModuleList()
        for skip in reversed(skips):
            self.levels.append(UpBlock(dims, coarse, skip))
            coarse = skip
        self.head = nn.Sequential(
            ConvBlock(dims, coarse, coarse),
            ConvBlock(dims, coarse, coarse),
            convolution(coarse, out_channels, kernel_size=3, padding=1),
        )

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Compute ``batch out_channels *space`` without activation at the end.

        The finest map has the image's own resolution, so `space`, which other decoders need, changes nothing.
        """
        decoded: Tensor = self.head(go_up(self.levels, features))
        return decoded
