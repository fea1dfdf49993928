"""The network of shape landmarks (Bhalodia et al., MICCAI 2020, as in the published code): an encoder, and points."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image

#: One scale a row: whether a maximum over 2 voxels an axis leads to it, then channels and stride of its convolutions.
_SCALES: tuple[tuple[bool, tuple[tuple[int, int], ...]], ...] = (
    (False, ((32, 1), (32, 1))),
    (True, ((64, 1), (64, 1))),
    (True, ((128, 1),)),
    (False, ((128, 2), (128, 1))),
    (False, ((128, 2),)),
    (True, ((256, 1),)),
    (False, ((256, 2), (256, 1))),
    (False, ((256, 2),)),
)

HIDDEN = 512  # width of the head's hidden layer (published code)


class LandmarkCNN(Encoder):
    """Twelve convolutions of edge 3 with bias and ReLU, no normalisation; edges are halved seven times.

    At 256 x 256 the coarsest map has 2 x 2 positions.  With ``dims=2`` and ``in_channels=3`` it has the 2,647,584
    parameters of the published code without its head.  Images of any size serve: odd edges are halved rounding up, and
    one that is smaller than the coarsest stride ends in a single position.  In 3D, the same layers with one more axis
    (ours: only the 2D network was published).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "scales.0.0"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "landmark-cnn", dims, in_channels
        self.channels = tuple(convolutions[-1][0] for _, convolutions in _SCALES)
        self.strides = tuple((2**scale,) * dims for scale in range(len(_SCALES)))
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        pool = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
        self.scales = nn.ModuleList()
        entering = in_channels
        for pooled, convolutions in _SCALES:
            layers: list[nn.Module] = [pool(2, ceil_mode=True)] if pooled else []
            for leaving, stride in convolutions:
                layers += [convolution(entering, leaving, 3, stride, padding=1), nn.ReLU()]
                entering = leaving
            self.scales.append(nn.Sequential(*layers))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute eight maps from ``batch channel *space``, fine to coarse."""
        check_image(self, image)
        maps = []
        for scale in self.scales:
            image = scale(image)
            maps.append(image)
        return maps


class LandmarkHead(nn.Module):
    """Coarsest map to points: averaged to few positions, a hidden layer with ReLU, coordinates through tanh.

    The last weights start at zero and the biases evenly in (-1, 1): at first every image has the same random points.
    """

    def __init__(self, encoder: Encoder, points: int, pooled: int) -> None:
        super().__init__()
        self.dims, self.pooled = encoder.dims, pooled
        self.hidden = nn.Linear(encoder.channels[-1] * pooled**encoder.dims, HIDDEN)
        self.last = nn.Linear(HIDDEN, points * encoder.dims)
        nn.init.zeros_(self.last.weight)
        nn.init.uniform_(self.last.bias, -1, 1)

    def forward(self, coarsest: Tensor) -> Tensor:
        """Compute ``batch points axes`` in (-1, 1), the last axis of space first."""
        pool = F.adaptive_avg_pool2d if self.dims == 2 else F.adaptive_avg_pool3d
        flat = pool(coarsest, self.pooled).flatten(1)
        points = torch.tanh(self.last(F.relu(self.hidden(flat))))
        return points.view(len(coarsest), -1, self.dims)
