"""The descriptor network of volume context (Blendowski et al., MICCAI 2019, published code): six small convolutions.

It sees a slab of three planes, its channels, as one position: 42 x 42 samples become 64 numbers without any padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder, check_image

#: Channels of each convolution; a maximum over 2 follows each of the first two.
_WIDTHS, _POOLED = (32, 32, 64, 64, 64, 64), 2
GROUPS, SLOPE = 4, 0.01  # of group normalisation, of leaky ReLU (published code)
WINDOW, STRIDE = 42, 4  # of one position of the coarsest map [voxel]
MARGIN = (WINDOW - STRIDE) // 2  # so that a position looks around the middle of its block


class ContextCNN(Encoder):
    """Six unpadded convolutions of edge 3 without bias, each with group normalisation (4) and leaky ReLU (0.01).

    `describe` is the published network.  Called as an encoder it sees the image within a margin of 19 zeros, so that the
    coarsest map has one position a block of 4 voxels, whose window of 42 has the block in its middle; the finer map, of
    32 channels, has one a block of 2.  With ``dims=2`` and ``in_channels=3`` it has the 139,744 parameters of the
    published network.  In 3D, the same layers with one more axis (ours).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image; the published network has three, which are planes.
    """

    entry: ClassVar[str] = "convolutions.0"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "context-cnn", dims, in_channels
        self.channels, self.strides = (_WIDTHS[0], _WIDTHS[-1]), ((2,) * dims, (STRIDE,) * dims)
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        entering = (in_channels, *_WIDTHS[:-1])
        self.convolutions = nn.ModuleList(
            convolution(before, width, 3, bias=False)
            for before, width in zip(entering, _WIDTHS, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in _WIDTHS)
        self.apply(draw_glorot)

    def describe(self, image: Tensor) -> Tensor:
        """Compute ``batch 64 *positions`` of ``batch channel *space``: a single position where edges are 42."""
        self.check(image.shape[2:])
        return self._maps(image)[-1]

    def check(self, space: Sequence[int]) -> None:
        """Refuse patches that are too small to be described.

        Raises
        ------
        OptionError
            An edge is shorter than 42.
        """
        if min(space) < WINDOW:
            raise OptionError(
                f"{self.name} describes patches of {WINDOW} samples an axis, and one of "
                f"{' x '.join(map(str, space))} is smaller",
                f"Give --patch-size {' '.join([str(WINDOW)] * self.dims)}, or another --encoder.",
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute two maps from ``batch channel *space``, fine to coarse."""
        check_image(self, image)
        blocks = [-(-edge // STRIDE) for edge in image.shape[2:]]
        after = [
            many * STRIDE - edge + MARGIN
            for many, edge in zip(blocks, image.shape[2:], strict=True)
        ]
        fine, coarse = self._maps(F.pad(image, [n for end in after[::-1] for n in (MARGIN, end)]))
        for axis, edge in enumerate(image.shape[2:], start=2):
            fine = fine.narrow(axis, MARGIN // 2, -(-edge // 2))
        return [fine, coarse]

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the first convolution's map and the last one's."""
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        fine = image
        for place, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            image = convolution(image)
            if place < _POOLED:
                image = pool(image, 2)
            image = F.leaky_relu(norm(image), SLOPE)
            fine = image if place == 0 else fine
        return fine, image


def draw_glorot(module: nn.Module) -> None:
    """Draw weights by Glorot's normal rule; biases are 0 (published code)."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    if isinstance(module, kinds):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
