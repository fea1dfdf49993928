"""Disparities of a stereo pair, predicted from its left picture alone, at several scales."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlabeled.nn.warp import identity_grid, sample

_START = -2.0  # bias of the heads: disparities start at about a tenth of the most (ours)


def shift_columns(
    image: Float[Tensor, "batch channel rows columns"],
    offset: Float[Tensor, "batch 1 rows columns"],
) -> Float[Tensor, "batch channel rows columns"]:
    """Read every row at ``column + offset * width``, linearly; 0 beyond the image.

    Parameters
    ----------
    image
        Has at least two columns.
    offset
        Fraction of the width: negative disparities read the right picture as the left eye sees it.

    >>> row = torch.arange(1.0, 9.0).expand(1, 1, 2, 8)
    >>> shift_columns(row, torch.full((1, 1, 2, 8), 1 / 8))[0, 0, 0].round(decimals=4)
    tensor([2., 3., 4., 5., 6., 7., 8., 0.])
    """
    offset = offset.float()
    rows, columns = image.shape[2:]
    grid = identity_grid((rows, columns), dtype=offset.dtype, device=offset.device)
    moved = grid[..., 0] + offset[:, 0] * (2 * columns / (columns - 1))
    return sample(image, torch.stack([moved, grid[..., 1].expand_as(moved)], dim=-1))


def image_pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Halve a picture by areas, so many scales, the finest first."""
    return [image if scale == 0 else F.avg_pool2d(image, 2**scale) for scale in range(scales)]


class DisparityHeads(nn.Module):
    """From a decoder's features to left and right disparity at every scale, from coarse to fine.

    A scale sees the features, pooled by areas, and the enlarged disparity of the scale below; a 3x3 convolution and
    ``most * sigmoid`` follow (Godard et al., CVPR 2017; that scales are pooled from the last features is ours, so that any
    decoder serves).

    Parameters
    ----------
    channels
        Of the features.
    scales
        How many, each half as large as the one before.
    most
        Largest disparity, as a fraction of the width.
    """

    def __init__(self, channels: int, *, scales: int = 4, most: float = 0.3) -> None:
        super().__init__()
        self.most = most
        below = [*[2] * (scales - 1), 0]
        self.heads = nn.ModuleList(nn.Conv2d(channels + more, 2, 3, padding=1) for more in below)
        for head in self.heads:
            nn.init.constant_(cast(Tensor, head.bias), _START)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Give ``batch 2 rows columns``, left and right, the finest first, in (0, most)."""
        found: list[Tensor] = []
        levels = image_pyramid(features, len(self.heads))
        for head, level in reversed(list(zip(self.heads, levels, strict=True))):
            if found:
                coarse = F.interpolate(found[0], level.shape[2:], mode="bilinear")
                level = torch.cat([level, coarse.to(level.dtype)], dim=1)
            found.insert(0, self.most * torch.sigmoid(head(level).float()))
        return found
