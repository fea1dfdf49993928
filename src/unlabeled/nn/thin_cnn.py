"""A convolutional network for a few thick slices: it sees across slices once, and never skips one."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.unet import SwitchableBatchNorm

_WIDTHS = (1, 2, 4, 8)


class ThinCNN(Encoder):
    """Four convolutions with batch normalisation and ReLU, a maximum over 2 in the plane between them.

    The first has edges 3 x 7 x 7 and stride 1 x 2 x 2, the others edges 1 x 3 x 3: slices lie along the first axis of
    space and stay as many as they are, whatever their thickness.  ``thin-cnn`` has maps of 64, 128, 256 and 512 channels
    at strides 2, 4, 8 and 16 in the plane, ``thin-cnn-16`` a quarter of them.  Odd edges are halved rounding up.  In 2D,
    the same layers without the axis across slices.  Ours, after networks of the VGG-M kind (Chatfield et al., BMVC 2014).

    Parameters
    ----------
    name
        ``thin-cnn`` or ``thin-cnn-16``.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "levels.0.0"

    def __init__(self, name: str, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        first = int(name.removeprefix("thin-cnn").removeprefix("-") or 64)
        self.name, self.dims, self.in_channels = name, dims, in_channels
        self.channels = tuple(first * times for times in _WIDTHS)
        across = (1,) * (dims - 2)
        self.strides = tuple((*across, 2**halvings, 2**halvings) for halvings in (1, 2, 3, 4))
        self.pooled = (*across, 2, 2)
        self.levels = nn.ModuleList()
        entering = in_channels
        for level, width in enumerate(self.channels):
            edge, thick = (3, 1) if level else (7, 3)
            kernel = (*(thick for _ in across), edge, edge)
            stride = (*across, *((1, 1) if level else (2, 2)))
            padding = tuple(length // 2 for length in kernel)
            convolution = nn.Conv2d if dims == 2 else nn.Conv3d
            conv = convolution(entering, width, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers = conv, SwitchableBatchNorm(width), nn.ReLU(inplace=True)
            self.levels.append(nn.Sequential(*layers))
            entering = width

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute four maps from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        maps: list[Tensor] = []
        for level in self.levels:
            image = level(pool(image, self.pooled, ceil_mode=True) if maps else image)
            maps.append(image)
        return maps
