"""A narrow U-Net of six levels for slices (Chaitanya et al., NeurIPS 2020, as in the published code)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.decoders import fit
from unlabeled.nn.levels import HalvingEncoder, SkipDecoder, stack_levels, steps_up
from unlabeled.nn.unet import ConvBlock, SwitchableBatchNorm

_CHANNELS = (16, 32, 64, 128, 128, 128)


class UNet6Encoder(HalvingEncoder):
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
        widths = [(leaving, leaving) for leaving in _CHANNELS]
        levels = stack_levels(ConvBlock, dims, in_channels, widths)
        super().__init__("unet-6", levels, dims=dims, in_channels=in_channels, channels=_CHANNELS)


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


class UNet6Decoder(SkipDecoder):
    """Expanding half: five `UpBlock`; the head is two more blocks and a convolution.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.
    """

    def __init__(self, encoder: UNet6Encoder, *, out_channels: int) -> None:
        dims, finest = encoder.dims, encoder.channels[0]
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        levels = [UpBlock(dims, *pair) for pair in steps_up(encoder.channels)]
        head = nn.Sequential(
            ConvBlock(dims, finest, finest),
            ConvBlock(dims, finest, finest),
            convolution(finest, out_channels, kernel_size=3, padding=1),
        )
        super().__init__(levels, head)
