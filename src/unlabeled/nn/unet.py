"""The U-Net of Models Genesis: two convolutions a level, channels doubling within the level (Zhou et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.levels import SkipDecoder, go_down, stack_levels, steps_up


class SwitchableBatchNorm(_BatchNorm):
    """Batch normalisation that can keep using the batch's own statistics in evaluation.

    The running statistics are kept either way, so weights move freely between the two modes.

    Attributes
    ----------
    always_batch
        In evaluation, normalise by the batch (the published PyTorch code) instead of the running statistics.
    """

    always_batch: bool = False

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - the name of the overridden method's parameter
        """Accept every number of axes of space."""

    def forward(self, image: Tensor) -> Tensor:
        """Normalise each channel of ``batch channel *space``."""
        if self.training or not self.always_batch:
            return super().forward(image)
        return F.batch_norm(image, None, None, self.weight, self.bias, training=True, eps=self.eps)


def normalise_by(module: nn.Module, statistics: Literal["batch", "running"]) -> None:
    """Choose what the U-Net's normalisation uses in evaluation: the batch at hand or the running statistics.

    The published PyTorch code always uses the batch, so its output for one image depends on its companions.

    >>> encoder = UNetEncoder(dims=2, base_width=4)
    >>> normalise_by(encoder, "batch")
    >>> encoder.levels[0][0].norm.always_batch
    True
    """
    for part in module.modules():
        if isinstance(part, SwitchableBatchNorm):
            part.always_batch = statistics == "batch"


class ConvBlock(nn.Module):
    """Convolution of edge 3 with bias, batch normalisation, ReLU; ``batch channel *space`` stays as large."""

    def __init__(self, dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = convolution(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = SwitchableBatchNorm(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the block."""
        return F.relu(self.norm(self.conv(image)), inplace=True)


class UNetEncoder(Encoder):
    """Contracting half: at level i the two blocks give ``width * 2**i``, then ``width * 2**(i + 1)`` channels.

    With the defaults and ``dims=3``, ``in_channels=1`` it has the 7,027,776 parameters of the published network and
    feature maps of 64, 128, 256 and 512 channels at strides 1, 2, 4 and 8.

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    base_width
        Channels after the first block; the published network has 32.
    depth
        Levels; the published network has 4.

    Raises
    ------
    OptionError
        On `forward`, when an edge of the image is no multiple of the coarsest stride.
    """

    entry: ClassVar[str] = "levels.0.0.conv"

    def __init__(
        self, *, dims: int, in_channels: int = 1, base_width: int = 32, depth: int = 4
    ) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise OptionError(f"a U-Net works on 2 or 3 axes of space, not {dims}")
        self.name = "unet"
        self.dims = dims
        self.in_channels = in_channels
        self.base_width = base_width
        self.channels = tuple(base_width * 2 ** (level + 1) for level in range(depth))
        self.strides = tuple((2**level,) * dims for level in range(depth))
        widths = [(leaving // 2, leaving) for leaving in self.channels]
        self.levels = stack_levels(ConvBlock, dims, in_channels, widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute one map a level from ``batch channel *space``, fine to coarse."""
        self.check(image.shape[2:])
        return go_down(self.levels, image)

    def check(self, space: Sequence[int]) -> None:
        """Refuse edges [voxel] that the poolings cannot halve.

        Raises
        ------
        OptionError
            When an edge is no multiple of the coarsest stride.
        """
        stride = self.strides[-1][0]
        if any(edge % stride for edge in space):
            fitting = " ".join(str(max(1, round(edge / stride)) * stride) for edge in space)
            raise OptionError(
                f"unet halves an image {len(self.channels) - 1} times, so its edges must be multiples "
                f"of {stride} voxels, not {' x '.join(map(str, space))}",
                f"Give --patch-size {fitting}.",
            )


class UpLevel(nn.Module):
    """Double the edges by a transposed convolution, put the skip's channels behind, two blocks."""

    def __init__(self, dims: int, coarse: int, skip: int) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        self.up = transposed(coarse, coarse, kernel_size=2, stride=2)
        self.blocks = nn.Sequential(
            ConvBlock(dims, coarse + skip, skip), ConvBlock(dims, skip, skip)
        )

    def forward(self, image: Tensor, skip: Tensor) -> Tensor:
        """Compute ``batch skip *space`` from the coarser map and the skip."""
        restored: Tensor = self.blocks(torch.cat([self.up(image), skip], dim=1))
        return restored


class UNetDecoder(SkipDecoder):
    """Expanding half: a transposed convolution, the level's skip beside it, two blocks; the head is a convolution of edge 1.

    Parameters
    ----------
    encoder
        The contracting half, which says how many channels come.
    out_channels
        Channels of the result.
    """

    def __init__(self, encoder: UNetEncoder, *, out_channels: int) -> None:
        dims = encoder.dims
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        levels = [UpLevel(dims, *pair) for pair in steps_up(encoder.channels)]
        super().__init__(levels, pointwise(encoder.channels[0], out_channels, kernel_size=1))
