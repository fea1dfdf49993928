"""Losses of single points of a segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def point_contrast(
    anchors: Float[Tensor, "anchor dim"],
    positives: Float[Tensor, "positive dim"],
    negatives: Float[Tensor, "negative dim"],
    *,
    others: int = 1,
) -> Float[Tensor, ""]:
    """Pull unsure points towards sure ones of their class, and push sure points of other classes away; 0 to 1.

    Parameters
    ----------
    anchors
        Features of sure points of a class.
    positives
        Of unsure points of it.
    negatives
        Of sure points of other classes.
    others
        How many other classes `negatives` hold; as many points of each as `positives` are expected.

    Returns
    -------
    Tensor
        0 where positives point along the anchors and negatives against them, 1 the other way round, a half where all
        are alike.

    Notes
    -----
    Mean over anchors of ``1 - (log(P / (M + 1e-6)) + 2) / 4`` with P and M the sums of ``exp(cosine)`` to positives and
    negatives.  No temperature.  Source: official code of Li et al., MICCAI 2020.

    >>> x, y = torch.eye(2)[:1], -torch.eye(2)[:1]
    >>> float(point_contrast(x, x, y).round(decimals=3)), float(point_contrast(x, x, x).round(decimals=3))
    (0.0, 0.5)
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchor, near, far = (
            F.normalize(each.float(), dim=1) for each in (anchors, positives, negatives)
        )
        alike, unlike = ((anchor @ each.T).exp().sum(1) for each in (near, far))
        return (1 - ((alike / (unlike / others + 1e-6)).log() + 2) / 4).mean()
