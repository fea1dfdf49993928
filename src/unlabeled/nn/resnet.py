"""Residual networks (He et al., CVPR 2016) in 2D and 3D, with the tensor names of torchvision's checkpoints."""

from __future__ import annotations

from typing import ClassVar

from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image

#: Block and blocks a stage.
_DEPTHS = {"resnet18": ("basic", (2, 2, 2, 2)), "resnet50": ("bottleneck", (3, 4, 6, 3))}


def monai_resnet(name: str, *, dims: int, in_channels: int) -> ResNet:
    """Make MONAI's network whose tensors equal torchvision's: shortcuts by 1x1 convolutions without bias."""
    block, layers = _DEPTHS[name]
    return ResNet(
        block=block,
        layers=list(layers),
        block_inplanes=[64, 128, 256, 512],
        spatial_dims=dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )


class ResNetEncoder(Encoder):
    """ResNet-18 or -50 without its classifier: the stem's map at stride 2, then stages at 4, 8, 16 and 32.

    In 2D, names and shapes equal those of torchvision and timm, so ``--init FILE`` takes their checkpoints.

    Parameters
    ----------
    name
        ``resnet18`` or ``resnet50``.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "conv1"

    def __init__(self, name: str, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        network = monai_resnet(name, dims=dims, in_channels=in_channels)
        self.name, self.dims, self.in_channels = name, dims, in_channels
        wide = 4 if _DEPTHS[name][0] == "bottleneck" else 1
        self.channels = (64, *(width * wide for width in (64, 128, 256, 512)))
        self.strides = tuple((2**halving,) * dims for halving in range(1, 6))
        self.conv1: nn.Module = network.conv1
        self.bn1: nn.Module = network.bn1
        self.act: nn.Module = network.act
        self.maxpool: nn.Module = network.maxpool
        self.layer1: nn.Module = network.layer1
        self.layer2: nn.Module = network.layer2
        self.layer3: nn.Module = network.layer3
        self.layer4: nn.Module = network.layer4

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute five maps from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        maps = [self.act(self.bn1(self.conv1(image)))]
        out = self.maxpool(maps[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
            maps.append(out)
        return maps
