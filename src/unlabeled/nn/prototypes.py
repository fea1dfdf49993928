"""Adaptive local prototypes (Ouyang et al., ECCV 2020): segment an image by the features of another one's region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.grids import FeatureGrid

SHARPNESS = 20.0  # what cosines are multiplied by (official code)
SHORTEST = 1e-4  # length below which a feature is no longer stretched to one (official code)
CELL_THRESHOLD = 0.95  # mean of the mask from which on a cell is a prototype (official code)


class GridEmbedding(nn.Module):
    """Features on one regular grid from an encoder's maps, as `FeatureGrid` joins them, then one linear layer.

    Parameters
    ----------
    encoder
        A 2D encoder, of which only channels and strides are read.
    width
        Features a position.
    stride
        Edge of a grid cell [pixel]; where the encoder's coarsest map is finer, that one's.
    """

    def __init__(self, encoder: Encoder, width: int = 256, stride: int = 8) -> None:
        super().__init__()
        if encoder.dims != 2:
            raise OptionError("features on a grid of slices need 2D networks", "Give --dims 2.")
        self.maps = FeatureGrid.of(encoder, stride)
        self.stride = self.maps.stride
        self.project = nn.Conv2d(self.maps.channels, width, 1, bias=False)

    def forward(self, maps: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """Compute ``batch width *grid`` from an encoder's maps of images of size `space`."""
        grid = [-(-edge // self.stride) for edge in space]
        features: Tensor = self.project(self.maps(maps, grid))
        return features


class Prototypes(NamedTuple):
    """What a class looks like: some features of unit length, and which of the rows are any.

    Rows that are none keep the tensors of a batch in one shape.
    """

    vectors: Float[Tensor, "batch count width"]
    there: Bool[Tensor, "batch count"]

    def beside(self, others: Prototypes) -> Prototypes:
        """Put the prototypes of two supports together."""
        return Prototypes(
            torch.cat([self.vectors, others.vectors], 1), torch.cat([self.there, others.there], 1)
        )


def pool_prototypes(
    features: Float[Tensor, "batch width rows columns"],
    mask: Float[Tensor, "batch rows columns"],
    window: Sequence[int],
    *,
    threshold: float = CELL_THRESHOLD,
    whole: bool,
) -> Prototypes:
    """Average features over the cells of a grid that lie inside a mask, and over the whole mask.

    Parameters
    ----------
    features
        Of the support.
    mask
        Soft membership on the same grid, in [0, 1].
    window
        Edges of a cell, in grid positions; rows and columns beyond the last whole cell are left out.
    threshold
        A cell is a prototype where the mask's mean exceeds it.
    whole
        Whether the mean over the whole mask is always a prototype (foreground), or only where no cell is (background).

    Returns
    -------
    Prototypes
        Cells in reading order, then the whole mask's mean.

    >>> features = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])              # 2 features at 1 x 2 positions
    >>> found = pool_prototypes(features, torch.tensor([[[1.0, 0.0]]]), (1, 1), whole=True)
    >>> found.vectors[0], found.there[0]
    (tensor([[0.6000, 0.8000],
            [0.0000, 1.0000],
            [0.6000, 0.8000]]), tensor([ True, False,  True]))
    """
    edges = [min(edge, size) for edge, size in zip(window, mask.shape[1:], strict=True)]
    features, mask = features.float(), mask.float()
    cells = F.avg_pool2d(features, edges).flatten(2).transpose(1, 2)
    there = F.avg_pool2d(mask[:, None], edges).flatten(1) > threshold
    total = mask.sum((1, 2)) + 1e-5
    mean = torch.einsum("bdij,bij->bd", features, mask) / total[:, None]
    always = torch.ones_like(there[:, :1]) if whole else ~there.any(1, keepdim=True)
    vectors = F.normalize(torch.cat([cells, mean[:, None]], 1), dim=2, eps=SHORTEST)
    return Prototypes(vectors, torch.cat([there, always], 1))


def prototype_score(
    features: Float[Tensor, "batch width rows columns"], prototypes: Prototypes
) -> Float[Tensor, "batch rows columns"]:
    """Say how alike each position is to a class, -20 to 20: the soft maximum of its similarities to the prototypes.

    A similarity is 20 times a cosine; the soft maximum is their mean, weighted by their softmax.  A class without
    prototypes scores -20.

    >>> cosines = torch.tensor([[[0.1], [0.2]]])                            # similarities 2 and 4
    >>> vectors = torch.cat([cosines, (1 - cosines**2).sqrt()], 2)
    >>> score = prototype_score(torch.tensor([[[[1.0]], [[0.0]]]]), Prototypes(vectors, torch.ones(1, 2) > 0))
    >>> score                                                               # (2 e^2 + 4 e^4) / (e^2 + e^4)
    tensor([[[3.7616]]])
    """
    vectors, there = prototypes
    unit = F.normalize(features.float(), dim=1, eps=SHORTEST)
    alike = SHARPNESS * torch.einsum("bkd,bdij->bkij", vectors, unit)
    lacking = ~there[:, :, None, None]
    weights = alike.masked_fill(lacking, -torch.inf).softmax(1)
    known = there.any(1)[:, None, None]
    score = (weights.nan_to_num() * alike).sum(1)
    return torch.where(known, score, -SHARPNESS)


def mask_on_grid(
    mask: Float[Tensor, "batch height width"], grid: Sequence[int]
) -> Float[Tensor, "batch rows columns"]:
    """Interpolate a mask to a grid, bilinear, so that border cells are soft."""
    resized: Tensor = F.interpolate(
        mask[:, None].float(), size=list(grid), mode="bilinear", align_corners=False
    )
    return resized[:, 0]


def segment_by_support(
    query: Float[Tensor, "batch width rows columns"],
    support: Float[Tensor, "batch width rows columns"],
    mask: Float[Tensor, "batch rows columns"],
    window: Sequence[int],
    *,
    threshold: float = CELL_THRESHOLD,
) -> Float[Tensor, "batch 2 rows columns"]:
    """Segment query features by a region of the support: logits of background and region.

    Parameters
    ----------
    query, support
        Features on grids.
    mask
        The region on the support's grid, in [0, 1]; the rest is background.
    window
        Edges of a cell, in grid positions.
    threshold
        Mean of the mask that a cell must exceed.
    """
    back = pool_prototypes(support, 1 - mask, window, threshold=threshold, whole=False)
    fore = pool_prototypes(support, mask, window, threshold=threshold, whole=True)
    return torch.stack([prototype_score(query, back), prototype_score(query, fore)], 1)
