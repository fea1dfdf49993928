"""Consistency losses: two views of the same thing are to have the same features, and nothing is told apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def voxelwise_consistency(
    prediction: Float[Tensor, "batch channel *space"],
    target: Float[Tensor, "batch channel *space"],
) -> Float[Tensor, " batch"]:
    """Mean squared distance of features of unit length, voxel by voxel: ``2 - 2 cos``, 0 to 4, of each sample.

    In single precision.  Lengths do not count, so a voxel's feature may be scaled by any number above 0; the gradient
    reaches the prediction alone.

    Notes
    -----
    Source: BYOL (Grill et al., NeurIPS 2020), equation 2, at every voxel as in PGL (Xie et al., 2020).

    >>> prediction = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 2.0, 4.0]]])     # 2 channels of 3 voxels
    >>> target = torch.tensor([[[2.0, 1.0, 4.0], [0.0, 1.0, 3.0]]])         # cosines 1, 0.7071 and 0.96
    >>> voxelwise_consistency(prediction, target)
    tensor([0.2219])
    """
    with torch.autocast(prediction.device.type, enabled=False):
        cosine = F.cosine_similarity(prediction.float(), target.detach().float(), dim=1)
        return (2 - 2 * cosine).flatten(1).mean(1)


def spread(features: Float[Tensor, "batch channel *space"]) -> Float[Tensor, ""]:
    """Measure how features of unit length differ within a map: 0 where all are equal (collapse), 1 where they point anywhere.

    The mean over the batch of the root of the variances, summed over channels.

    >>> spread(torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]))           # (1, 0) and (0, 1): each is 0.7071 from their mean
    tensor(0.7071)
    """
    unit = F.normalize(features.float(), dim=1).flatten(2)
    return unit.std(2, correction=0).square().sum(1).sqrt().mean()
