"""The U-Net of CARE, which Noise2Void and VoidSeg share (csbdeep; Weigert et al., Nature Methods 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.levels import Doubled, HalvingEncoder, SkipDecoder, stack_levels
from unlabeled.nn.unet import SwitchableBatchNorm

#: Halvings, and channels of the first level, by name.
SIZES: Mapping[str, tuple[int, int]] = {
    "care-unet": (4, 32),
    "care-unet-3": (3, 32),
    "care-unet-tiny": (2, 8),
}


class CareBlock(nn.Module):
    """Convolution of edge 3 with bias, batch normalisation, ReLU; initialised as Keras does (Glorot, uniform)."""

    def __init__(self, dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = convolution(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = SwitchableBatchNorm(out_channels, eps=1e-3)
        initialise(self.conv)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the block; ``batch channel *space`` stays as large."""
        return F.relu(self.norm(self.conv(image)), inplace=True)


class CareEncoder(HalvingEncoder):
    """Contracting half: two blocks a level and a maximum over 2; the last level widens and narrows again.

    With ``care-unet`` and ``in_channels=1``, feature maps have 32, 64, 128, 256 and 256 channels at strides 1 to 16.
    Images of any size serve: odd edges are halved rounding up (the published code pads them).  In 3D, the same layers
    with one more axis, as csbdeep has them.

    Parameters
    ----------
    name
        ``care-unet`` halves four times, ``care-unet-3`` three times; ``care-unet-tiny`` twice, with a quarter of the
        channels (ours, for CPUs).
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "levels.0.0.conv"

    def __init__(self, name: str = "care-unet", *, dims: int, in_channels: int = 1) -> None:
        halvings, first = SIZES[name]
        widths = [first * 2**level for level in range(halvings + 1)]
        channels = (*widths[:-1], widths[-2])
        each = zip(widths, channels, strict=True)
        levels = stack_levels(CareBlock, dims, in_channels, each)
        super().__init__(name, levels, dims=dims, in_channels=in_channels, channels=channels)


class CareDecoder(SkipDecoder):
    """Expanding half: on each doubled map with its skip two blocks; the head is a convolution of edge 1.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.
    """

    def __init__(self, encoder: CareEncoder, *, out_channels: int) -> None:
        if out_channels < 1:
            raise OptionError(f"a decoder gives at least one channel, not {out_channels}")
        dims = encoder.dims
        *skips, coarse = encoder.channels
        levels = []
        for skip, leaving in zip(reversed(skips), [*reversed(skips[:-1]), skips[0]], strict=True):
            blocks = CareBlock(dims, coarse + skip, skip), CareBlock(dims, skip, leaving)
            levels.append(Doubled(*blocks))
            coarse = leaving
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        head = pointwise(coarse, out_channels, kernel_size=1)
        initialise(head)
        super().__init__(levels, head)


def initialise(layer: nn.Conv2d | nn.Conv3d) -> None:
    """Draw a kernel as Keras does: Glorot, uniform; biases are 0."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
