"""Embeddings of regions of a feature map: what local contrast compares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlabeled.errors import OptionError

REGION = 3  # edges of a region [voxel of the feature map]


class RegionProjector(nn.Module):
    """Two pointwise convolutions, then one linear map of every region of 3 x 3 voxels (Chaitanya et al., 2020).

    Parameters
    ----------
    width
        Channels of the feature map.
    dim
        Length of an embedding.
    grid
        Places an axis at which regions are taken.
    """

    def __init__(self, width: int, dim: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
        )
        self.project = nn.Conv2d(width, dim, REGION, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Embed the regions of the grid: ``row place dim`` from ``row channel rows columns``."""
        mixed = self.mix(features)
        tops, lefts = (grid_places(edge, self.grid) for edge in mixed.shape[2:])
        cut = [mixed[..., i : i + REGION, j : j + REGION] for i in tops for j in lefts]
        embedded: Tensor = self.project(torch.cat(cut)).flatten(1)
        return embedded.view(len(cut), len(features), -1).transpose(0, 1)

    def everywhere(self, features: Tensor) -> Tensor:
        """Embed the regions around all voxels but the outermost: ``row dim rows columns``."""
        embedded: Tensor = self.project(self.mix(features))
        return embedded


def grid_places(edge: int, grid: int) -> list[int]:
    """Say where the regions of a grid begin along an axis with so many voxels, evenly spread over all but the last.

    >>> grid_places(16, 5), grid_places(48, 5)      # of the official code
    ([0, 3, 6, 9, 12], [0, 11, 22, 33, 44])
    """
    return [step * (edge - REGION - 1) // (grid - 1) for step in range(grid)]


def map_size(space: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Say how large a feature map of an image is.

    >>> map_size((192, 50), (4, 4))
    [48, 13]
    """
    return [math.ceil(edge / by) for edge, by in zip(space, strides, strict=True)]


def require_room(space: Sequence[int], strides: Sequence[int], grid: int) -> None:
    """Refuse images [voxel] whose feature map has no room for a grid of places that all differ.

    Raises
    ------
    OptionError
        Naming a patch that has.
    """
    least, found = grid + REGION, map_size(space, strides)
    if min(found) < least:
        enough = (max(edge, least * by) for edge, by in zip(space, strides, strict=True))
        raise OptionError(
            f"patches of {' x '.join(map(str, space))} voxels end in a feature map of "
            f"{' x '.join(map(str, found))}, and comparing its regions takes {least} an axis",
            f"Give --patch-size {' '.join(map(str, enough))}, or more --decoder-blocks.",
        )
