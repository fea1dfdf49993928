"""What two patches say of where they lie: a feature each, and the distance of the two (Spitzer et al., MICCAI 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.section_cnn import SectionCNN


class PatchFeature(nn.Module):
    """Numbers between 0 and 1 that describe a patch: a dense layer on the encoder's coarsest map, and a sigmoid.

    The map of section-cnn is taken as it is, position by position; that of other encoders is averaged.

    Parameters
    ----------
    encoder
        Whose maps are described; it is given with every call, and not held.
    edges
        Of a patch [pixel].
    features
        Numbers that describe it.
    """

    def __init__(self, encoder: Encoder, edges: Sequence[int], features: int) -> None:
        super().__init__()
        entering = encoder.channels[-1]
        if isinstance(encoder, SectionCNN):
            for positions in encoder.described(edges):
                entering *= positions
        self.dense = nn.Linear(entering, features)

    def forward(self, encoder: Encoder, patch: Tensor) -> Tensor:
        """Compute ``batch features`` of ``batch channel rows columns``."""
        if isinstance(encoder, SectionCNN):
            seen = encoder.describe(patch).flatten(1)
        else:
            seen = pool(encoder(patch))
        return torch.sigmoid(self.dense(seen).float())


class DistanceHead(nn.Module):
    """The distance of two features: a weighted sum of their differences, the same whichever comes first.

    Parameters
    ----------
    features
        Numbers of a feature.
    kind
        ``l1_weighted``: ``w . |f - g| + b``; ``l2_weighted``: ``w . (f - g)^2 + b``; ``l2_sum``: ``|f - g|^2``, without
        weights.
    """

    def __init__(
        self, features: int, kind: Literal["l1_weighted", "l2_weighted", "l2_sum"] = "l1_weighted"
    ) -> None:
        super().__init__()
        self.kind = kind
        self.weights = None if kind == "l2_sum" else nn.Linear(features, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute distances ``batch`` of ``batch features`` of both patches.

        >>> head = DistanceHead(3, "l2_sum")
        >>> head(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 2.0, 1.0]]))
        tensor([2.])
        """
        apart = second - first
        apart = apart.abs() if self.kind == "l1_weighted" else apart.square()
        if self.weights is None:
            return apart.sum(1)
        weighted: Tensor = self.weights(apart)
        return weighted.squeeze(1)


def pearson(found: Tensor, true: Tensor) -> Tensor:
    """Correlate two rows of numbers; 0 where one of them does not change.

    >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0]))
    tensor(1.0000)
    """
    one, other = found - found.mean(), true - true.mean()
    length = one.norm() * other.norm()
    likeness: Tensor = (one * other).sum() / length if length > 0 else length
    return likeness
