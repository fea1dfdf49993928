"""SonoNet (Baumgartner et al., IEEE Transactions on Medical Imaging 2017): the convolutions of VGG-16 with normalisation."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from unlabeled.nn.levels import HalvingEncoder
from unlabeled.nn.unet import SwitchableBatchNorm

#: Convolutions of each level, and their width relative to the first level's.
_LEVELS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class SonoNetEncoder(HalvingEncoder):
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
        first = int(name.removeprefix("sononet-"))
        channels = tuple(first * times for _, times in _LEVELS)
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        levels = nn.ModuleList()
        entering = in_channels
        for (convolutions, _), width in zip(_LEVELS, channels, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                conv = convolution(entering, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                layers += [conv, SwitchableBatchNorm(width, eps=1e-4), nn.ReLU(inplace=True)]
                entering = width
            levels.append(nn.Sequential(*layers))
        super().__init__(name, levels, dims=dims, in_channels=in_channels, channels=channels)
