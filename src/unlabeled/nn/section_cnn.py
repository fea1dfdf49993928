"""The branch of the siamese network for sections (published code of Spitzer et al.): thirteen convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder, check_image

_WIDTHS = (16, 32, 32, 64, 64, 128)  # of the two convolutions of each block
_FIRST = 16  # channels of the convolution of edge 5 and stride 2
_POOLED = 2  # after each block


class SectionCNN(Encoder):
    """A convolution of edge 5 and stride 2, then six blocks of two of edge 3 with batch normalisation and a maximum over 2.

    `describe` is the published branch, without padding: 1019 pixels become 508, then 252, 124, 60, 28, 12 and 4.  Called
    as an encoder it pads with zeros, and gives what enters each maximum: the contracting half of a U-Net with the very
    same weights.  The published first convolution has no ReLU, by a mistaken argument; here it has one.

    Parameters
    ----------
    dims
        Axes of space, 2 or 3; the published network has 2.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "first"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "section-cnn", dims, in_channels
        self.channels = _WIDTHS
        self.strides = tuple((2 ** (n + 1),) * dims for n in range(len(_WIDTHS)))
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.first = convolution(in_channels, _FIRST, 5, stride=2)
        entering = (_FIRST, *_WIDTHS[:-1])
        self.convolutions = nn.ModuleList(
            convolution(before, width, 3)
            for begin, width in zip(entering, _WIDTHS, strict=True)
            for before in (begin, width)
        )
        self.norms = nn.ModuleList(norm(width) for width in _WIDTHS for _ in range(2))
        for module in (self.first, *self.convolutions):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def describe(self, image: Tensor) -> Tensor:
        """Compute the map after the last maximum, ``batch 128 *positions``: 4 x 4 of 1019 x 1019 pixels."""
        self.described(image.shape[2:])
        return self._pool(self._maps(image, padded=False)[-1], padded=False)

    def described(self, edges: Sequence[int]) -> tuple[int, ...]:
        """Give the positions that `describe` makes of an image.

        Raises
        ------
        OptionError
            The image is too small.
        """
        found = [(edge - 5) // 2 + 1 for edge in edges]
        for _ in _WIDTHS:
            found = [(edge - 4) // _POOLED for edge in found]
        if min(found) < 1:
            least = 1
            for _ in _WIDTHS:
                least = _POOLED * least + 4
            least = 2 * least + 3
            raise OptionError(
                f"{self.name} looks at patches of {least} pixels or more, and one of "
                f"{' x '.join(map(str, edges))} is smaller",
                f"Give --patch-size {' '.join([str(least)] * self.dims)}, or another --encoder, as resnet18.",
            )
        return tuple(found)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute six maps from ``batch channel *space``, fine to coarse."""
        check_image(self, image, positions=2 if self.training else 1)
        return self._maps(image, padded=True)

    def _maps(self, image: Tensor, *, padded: bool) -> list[Tensor]:
        """Compute what enters each maximum."""
        along = F.conv2d if self.dims == 2 else F.conv3d
        stem = self.first
        image = F.relu(along(image, stem.weight, stem.bias, stride=2, padding=2 * padded))
        maps: list[Tensor] = []
        for place, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            if place and place % 2 == 0:
                image = self._pool(image, padded=padded)
            weight, bias = cast(Tensor, convolution.weight), cast(Tensor, convolution.bias)
            image = F.relu(norm(along(image, weight, bias, padding=+padded)))
            if place % 2:
                maps.append(image)
        return maps

    def _pool(self, image: Tensor, *, padded: bool) -> Tensor:
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        return pool(image, _POOLED, ceil_mode=padded)
