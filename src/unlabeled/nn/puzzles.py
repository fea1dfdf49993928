"""The network of a puzzle: one encoder looks at every piece, heads look at all pieces together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.regions import map_size


class PieceHeads(nn.Module):
    """What stands on a shared encoder in a puzzle of several pieces ("Siamese-Octad" where there are eight).

    Each piece's features go through a linear layer, ReLU and batch normalisation, the same for all pieces; those of
    all pieces, one behind the other in the order of the slots, go to every head.

    Parameters
    ----------
    entering
        Features of a piece, from the encoder.
    pieces
        How many there are.
    heads
        By name, the numbers that come out and the hidden layers before them.
    features
        Features of a piece that the heads see.
    width
        Of the hidden layers, each with ReLU.
    """

    def __init__(
        self,
        entering: int,
        pieces: int,
        heads: Mapping[str, tuple[int, int]],
        *,
        features: int = 64,
        width: int = 1024,
    ) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Linear(entering, features), nn.ReLU(), nn.BatchNorm1d(features)
        )
        self.heads = nn.ModuleDict(
            {
                name: _layers([pieces * features, *[width] * hidden], leaving)
                for name, (leaving, hidden) in heads.items()
            }
        )

    def project(
        self, pooled: Float[Tensor, "batch piece entering"]
    ) -> Float[Tensor, "batch piece features"]:
        """Compute each piece's features, whatever its companions."""
        batch, pieces, _ = pooled.shape
        projected: Tensor = self.projector(pooled.flatten(0, 1))
        return projected.view(batch, pieces, -1)

    def forward(self, pooled: Float[Tensor, "batch piece entering"]) -> dict[str, Tensor]:
        """Compute ``batch number`` logits by the name of the head."""
        together = self.project(pooled).flatten(1)
        return {name: head(together) for name, head in self.heads.items()}


class LayoutHead(nn.Module):
    """Say in which of some orders the tiles of an image lie, from its coarsest map.

    The map is averaged over a grid of as many cells as there are tiles, not over all of it: where something is tells the
    order.  The cells, one behind the other, go through a linear layer with ReLU and another one.

    Parameters
    ----------
    encoder
        Whose maps come in.
    space
        Edges of an image [voxel].
    grid
        Tiles along each axis.
    orders
        Numbers that come out.
    hidden
        Width of the layer in between.

    Raises
    ------
    OptionError
        The coarsest map has fewer places than there are tiles along an axis.
    """

    def __init__(
        self,
        encoder: Encoder,
        space: Sequence[int],
        grid: Sequence[int],
        orders: int,
        *,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        strides = encoder.strides[-1]
        found = map_size(space, strides)
        if any(have < many for have, many in zip(found, grid, strict=True)):
            enough = (many * by for many, by in zip(grid, strides, strict=True))
            raise OptionError(
                f"patches of {' x '.join(map(str, space))} voxels end in a feature map of "
                f"{' x '.join(map(str, found))}, and there are {' x '.join(map(str, grid))} tiles to tell apart",
                f"Give --patch-size {' '.join(map(str, enough))} or more, or a shallower network: "
                "--encoder resenc-tiny.",
            )
        self.average: nn.Module
        if encoder.dims == 2:
            self.average = nn.AdaptiveAvgPool2d((grid[0], grid[1]))
        else:
            self.average = nn.AdaptiveAvgPool3d((grid[0], grid[1], grid[2]))
        self.layers = _layers([encoder.channels[-1] * math.prod(grid), hidden], orders)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Compute ``batch orders`` from feature maps, fine to coarse."""
        cells = self.average(features[-1])
        logits: Tensor = self.layers(cells.flatten(1))
        return logits


def pool_pieces(
    encoder: Encoder, pieces: Float[Tensor, "batch piece channel *space"]
) -> Float[Tensor, "batch piece feature"]:
    """Compute the mean of each piece's coarsest map: the same weights for every piece."""
    return pool(encoder(pieces.flatten(0, 1))).view(*pieces.shape[:2], -1)


def _layers(widths: list[int], leaving: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for entering, width in pairwise(widths):
        layers += [nn.Linear(entering, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], leaving))
