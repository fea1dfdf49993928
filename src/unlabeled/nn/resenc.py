"""nnU-Net's residual encoder: the same stages, blocks and tensors, so that weights map one to one.

Source: Isensee et al., MICCAI 2024 ("nnU-Net Revisited"); nnU-Net 2.8 with dynamic-network-architectures 0.4.  The
residual branch is He et al.'s ResNet-D: average pooling before the 1x1 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image

SLOPE = 0.01


@dataclass(frozen=True)
class Plan:
    """What nnU-Net calls the architecture of a plan; stage 0 has stride 1, every further one 2, kernels have edge 3.

    Attributes
    ----------
    features
        Channels of each stage.
    blocks
        Residual blocks of each stage.
    """

    features: tuple[int, ...]
    blocks: tuple[int, ...]


def plan(name: str, dims: int) -> Plan:
    """Give the stages of one size.

    The topology of nnU-Net follows from the data's patch: stages are added while an edge has at least 8 voxels.
    ``resenc-m`` and ``resenc-l`` take the plan that nnU-Net 2.8 makes for large isotropic images: patches of 128^3
    (M) and 192^3 (L) in 3D, 512^2 (M) and 896 x 768 (L) in 2D.  Either has 6 stages of at most 320 channels in 3D
    and 8 stages of at most 512 channels in 2D, so M and L share their tensors and differ in the patch alone.
    ``resenc-s`` (half the channels and blocks) and ``resenc-tiny`` are ours; none begins with fewer than 16 channels,
    as CPUs convolve 8 channels slower than 16 (4.5 times, with AVX-512 on 48^3 voxels).

    >>> plan("resenc-m", 3)
    Plan(features=(32, 64, 128, 256, 320, 320), blocks=(1, 3, 4, 6, 6, 6))
    """
    if name == "resenc-tiny":
        return Plan((16, 32, 64, 128), (1, 1, 1, 1))
    stages, most = (8, 512) if dims == 2 else (6, 320)
    features = tuple(min(32 * 2**stage, most) for stage in range(stages))
    blocks = (1, 3, 4, 6, 6, 6, 6, 6)[:stages]
    if name == "resenc-s":
        return Plan(tuple(f // 2 for f in features), tuple((b + 1) // 2 for b in blocks))
    return Plan(features, blocks)


class ConvNorm(nn.Module):
    """Convolution, instance normalisation and, on demand, leaky ReLU; ``batch channel *space`` rounds up by stride."""

    def __init__(
        self, dims: int, entering: int, leaving: int, *, edge: int = 3, stride: int = 1,
        bias: bool = True, activate: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        normalisation = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
        self.conv = convolution(entering, leaving, edge, stride, padding=edge // 2, bias=bias)
        self.norm = normalisation(leaving, eps=1e-5, affine=True)
        self.activate = activate

    def forward(self, image: Tensor) -> Tensor:
        """Compute the layer."""
        out: Tensor = self.norm(self.conv(image))
        return F.leaky_relu(out, SLOPE, inplace=True) if self.activate else out


class ConvStack(nn.Module):
    """Layers of convolution, normalisation and activation one after the other, named as nnU-Net names them."""

    def __init__(self, *layers: ConvNorm) -> None:
        super().__init__()
        self.convs = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Compute all layers."""
        out: Tensor = self.convs(image)
        return out


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut; average pooling of the shortcut keeps the last partial window."""

    def __init__(self, dims: int, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dims, entering, leaving, stride=stride)
        self.conv2 = ConvNorm(dims, leaving, leaving, activate=False)
        parts: list[nn.Module] = []
        if stride != 1:
            pool = nn.AvgPool2d if dims == 2 else nn.AvgPool3d
            parts.append(
                pool(stride, stride, ceil_mode=True)
            )  # odd edges round up, as convolutions do
        if entering != leaving:
            parts.append(ConvNorm(dims, entering, leaving, edge=1, bias=False, activate=False))
        self.skip = nn.Sequential(*parts)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the block."""
        out: Tensor = self.conv2(self.conv1(image))
        return F.leaky_relu(out + self.skip(image), SLOPE, inplace=True)


class ResidualStage(nn.Module):
    """Residual blocks of one resolution; the first takes the stride."""

    def __init__(self, dims: int, entering: int, leaving: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(dims, entering, leaving, stride),
            *(ResidualBlock(dims, leaving, leaving, 1) for _ in range(blocks - 1)),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute the stage."""
        out: Tensor = self.blocks(image)
        return out


class ResidualEncoder(Encoder):
    """nnU-Net's residual encoder with the stages of `plan`.

    Initialised as nnU-Net does: He's normal rule for the leaky slope, no bias, and each block starts as its shortcut
    (the second normalisation's weight is zero).

    Parameters
    ----------
    name
        ``resenc-tiny``, ``resenc-s``, ``resenc-m`` or ``resenc-l``.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "stem.convs.0.conv"

    def __init__(self, name: str, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        stages = plan(name, dims)
        self.name, self.dims, self.in_channels = name, dims, in_channels
        self.channels = stages.features
        self.blocks = stages.blocks
        self.strides = tuple((2**stage,) * dims for stage in range(len(self.channels)))
        self.stem = ConvStack(ConvNorm(dims, in_channels, self.channels[0]))
        entering = (self.channels[0], *self.channels[:-1])
        self.stages = nn.Sequential(
            *(
                ResidualStage(dims, before, after, blocks, 1 if stage == 0 else 2)
                for stage, (before, after, blocks) in enumerate(
                    zip(entering, self.channels, stages.blocks, strict=True)
                )
            )
        )
        self.apply(initialise)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                nn.init.zeros_(block.conv2.norm.weight)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute one map a stage from ``batch channel *space``, fine to coarse."""
        check_image(self, image, positions=2)
        out = self.stem(image)
        maps: list[Tensor] = []
        for stage in self.stages:
            out = stage(out)
            maps.append(out)
        return maps


def initialise(module: nn.Module) -> None:
    """Draw a convolution's weights by He's normal rule for leaky ReLU, and start without bias (nnU-Net)."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if isinstance(module, kinds):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
