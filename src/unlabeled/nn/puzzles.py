"""The network of a puzzle: one encoder looks at every piece, heads look at all pieces together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool


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
