"""Heads that say where one patch lies relative to another, from the two patches' descriptors (Blendowski et al., 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.context_cnn import GROUPS, SLOPE, ContextCNN, draw_glorot
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool


def describe_patch(encoder: Encoder, patch: Tensor) -> Tensor:
    """Describe whole patches ``batch channel rows columns`` by ``batch dim``: the mean over the coarsest map.

    The published network looks at a patch without padding; its coarsest map then has a single position.
    """
    if isinstance(encoder, ContextCNN):
        return pool([encoder.describe(patch)])
    return pool(encoder(patch))


class HeatmapHead(nn.Module):
    """Draws where the second patch lies as a heatmap of 19 x 19 cells (28,189 parameters from 64 features a patch).

    Parameters
    ----------
    features
        Of the descriptor of one patch.
    """

    cells = 19

    def __init__(self, features: int) -> None:
        super().__init__()
        self.squeeze = _pointwise(2 * features, 64, 32, 16)
        self.grow = nn.ConvTranspose2d(16, 16, 5, bias=False)  # 1 -> 5
        self.grown = nn.GroupNorm(GROUPS, 16)
        self.mix = nn.Conv2d(16, 16, 3, bias=False)  # 5 -> 3
        self.mixed = nn.BatchNorm2d(16)
        self.spread = nn.ConvTranspose2d(16, 16, 5, bias=False)  # 11 -> 15
        self.evened = nn.GroupNorm(GROUPS, 16)
        self.narrow = nn.Conv2d(16, 8, 3, bias=False)  # 15 -> 13
        self.narrowed = nn.BatchNorm2d(8)
        self.refine = nn.ConvTranspose2d(8, 4, 5, bias=False)  # 13 -> 17
        self.refined = nn.GroupNorm(GROUPS, 4)
        self.head = nn.Conv2d(4, 1, 3, padding=1)
        self.apply(draw_glorot)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute ``batch 1 19 19`` from two descriptors ``batch features``; no last activation."""
        image: Tensor = self.squeeze(torch.cat([first, second], 1)[..., None, None])
        image = _leak(self.grown(self.grow(image)))
        image = _leak(self.mixed(self.mix(image)))
        image = _resize(image, 11)
        image = _leak(self.evened(self.spread(image)))
        image = _leak(self.narrowed(self.narrow(image)))
        image = F.avg_pool2d(image, 3, stride=1, padding=1)
        image = _leak(self.refined(self.refine(image)))
        drawn: Tensor = self.head(_resize(image, self.cells))
        return drawn


class OffsetHead(nn.Module):
    """Says two numbers, the displacement itself: the rival of the heatmap (27,138 parameters from 64 features a patch).

    Parameters
    ----------
    features
        Of the descriptor of one patch.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.squeeze = _pointwise(2 * features, 128, 64, 32)
        self.head = nn.Conv2d(32, 2, 1)
        self.apply(draw_glorot)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute ``batch 2`` from two descriptors ``batch features``."""
        said: Tensor = self.head(self.squeeze(torch.cat([first, second], 1)[..., None, None]))
        return said.flatten(1)


def _pointwise(entering: int, *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        conv = nn.Conv2d(entering, width, 1, bias=False)
        layers += [conv, nn.GroupNorm(GROUPS, width), nn.LeakyReLU(SLOPE)]
        entering = width
    return nn.Sequential(*layers)


def _leak(image: Tensor) -> Tensor:
    return F.leaky_relu(image, SLOPE)


def _resize(image: Tensor, edge: int) -> Tensor:
    return F.interpolate(image, size=(edge, edge), mode="bilinear", align_corners=True)
