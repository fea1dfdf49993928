"""Losses between two pictures of one scene: structure, colour, and smoothness that stops at edges.

Source of all: Godard et al., CVPR 2017, equations 3 to 5, with the constants of the published code.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_C1, _C2 = 1e-4, 9e-4  # keep the quotient of SSIM finite, for intensities in [0, 1]


def structural_distance(
    one: Float[Tensor, "batch channel rows columns"],
    other: Float[Tensor, "batch channel rows columns"],
) -> Float[Tensor, "batch channel inner_rows inner_columns"]:
    """Give ``(1 - SSIM) / 2`` over 3x3 windows inside the picture: the map has two rows and columns fewer.

    >>> import torch
    >>> structural_distance(torch.full((1, 1, 3, 3), 0.5), torch.full((1, 1, 3, 3), 0.3)).flatten()
    tensor([0.0588])
    """
    one, other = one.float(), other.float()
    mean, mean_other = F.avg_pool2d(one, 3, 1), F.avg_pool2d(other, 3, 1)
    variance = F.avg_pool2d(one.square(), 3, 1) - mean.square()
    variance_other = F.avg_pool2d(other.square(), 3, 1) - mean_other.square()
    covariance = F.avg_pool2d(one * other, 3, 1) - mean * mean_other
    above = (2 * mean * mean_other + _C1) * (2 * covariance + _C2)
    below = (mean.square() + mean_other.square() + _C1) * (variance + variance_other + _C2)
    return ((1 - above / below) / 2).clamp(0, 1)


def photometric_error(
    estimate: Float[Tensor, "batch channel rows columns"],
    image: Float[Tensor, "batch channel rows columns"],
    alpha: float = 0.85,
) -> Float[Tensor, ""]:
    """Mean structural distance, `alpha` of it, and mean absolute error, the rest.

    >>> import torch
    >>> photometric_error(torch.full((1, 1, 3, 3), 0.5), torch.full((1, 1, 3, 3), 0.3))
    tensor(0.0800)
    """
    absolute = (estimate.float() - image.float()).abs().mean()
    return alpha * structural_distance(estimate, image).mean() + (1 - alpha) * absolute


def edge_aware_smoothness(
    disparity: Float[Tensor, "batch 1 rows columns"],
    image: Float[Tensor, "batch channel rows columns"],
) -> Float[Tensor, ""]:
    """Mean absolute slope of a disparity along both axes, which costs less where the image has an edge.

    >>> import torch
    >>> image = torch.tensor([0.0, 1.0, 1.0]).expand(1, 3, 2, 3)
    >>> edge_aware_smoothness(torch.tensor([0.1, 0.2, 0.2]).expand(1, 1, 2, 3), image)
    tensor(0.0184)
    """
    disparity, image = disparity.float(), image.float()
    total = disparity.new_zeros(())
    for axis in (-1, -2):
        weight = (-image.diff(dim=axis).abs().mean(1, keepdim=True)).exp()
        total = total + (disparity.diff(dim=axis) * weight).abs().mean()
    return total
