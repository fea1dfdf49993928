"""A shallow U-Net of three levels that normalises once a level (Kayal et al., MICCAI 2020, as in the published code)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.levels import Doubled, HalvingEncoder, SkipDecoder, steps_up
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


class ShallowUNetEncoder(HalvingEncoder):
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
        pairs = zip((in_channels, *_CHANNELS), _CHANNELS, strict=False)
        levels = nn.ModuleList(ConvPair(dims, come, leave) for come, leave in pairs)
        super().__init__(
            "unet-shallow", levels, dims=dims, in_channels=in_channels, channels=_CHANNELS
        )


class ShallowUNetDecoder(SkipDecoder):
    """Expanding half: on each doubled map with its skip a `ConvPair`; the head is a convolution of edge 1.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.
    """

    def __init__(self, encoder: ShallowUNetEncoder, *, out_channels: int) -> None:
        dims = encoder.dims
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        levels = [
            Doubled(ConvPair(dims, coarse + skip, skip))
            for coarse, skip in steps_up(encoder.channels)
        ]
        super().__init__(levels, pointwise(encoder.channels[0], out_channels, kernel_size=1))
