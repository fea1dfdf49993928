"""SonoNet (Baumgartner et al., IEEE Transactions on Medical Imaging 2017): the convolutions of VGG-16 with normalisation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.levels import go_down
from unlabeled.nn.unet import SwitchableBatchNorm

#: Convolutions of each level, and their width relative to the first level's.
_LEVELS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class SonoNetEncoder(Encoder):
    """Thirteen convolutions of edge 3 without bias, each with batch normalisation (eps 1e-4) and ReLU, in five levels.

    A maximum over 2 leads from level to level.  ``sononet-64`` has maps of 64, 128, 256, 512 and 512 channels at strides
    1, 2, 4, 8 and 16; ``-32`` and ``-16`` have a half and a quarter of them.  The adaption layers of the paper, two 1x1
    convolutions before the average over space, belong to its classes and are left to the task's head.  Odd edges are
    halved rounding up.  In 3D, the same layers with one more axis (ours: the published network is 2D).

    Parameters
    ----------
    name
        ``sononet-16``, ``sononet-32`` or ``sononet-64``.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "levels.0.0"

    def __init__(self, name: str, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = name, dims, in_channels
        first = int(name.removeprefix("sononet-"))
        self.channels = tuple(first * times for _, times in _LEVELS)
        self.strides = tuple((2**level,) * dims for level in range(len(_LEVELS)))
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.levels = nn.ModuleList()
        entering = in_channels
        for (convolutions, _), width in zip(_LEVELS, self.channels, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                conv = convolution(entering, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                layers += [conv, SwitchableBatchNorm(width, eps=1e-4), nn.ReLU(inplace=True)]
                entering = width
            self.levels.append(nn.Sequential(*layers))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute five maps from ``batch channel *space``, fine to coarse."""
        # in training, batch normalisation needs two values a channel
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        return go_down(self.levels, image, ceil_mode=True)
