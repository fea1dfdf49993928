"""Batches whose rows are blended with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """One weight for a batch, and for each row the one that it is blended with.

    Whatever belongs together (two views, embeddings) is blended by the same object.

    Parameters
    ----------
    weight
        Share that a row keeps of itself.
    partners
        Place in the batch of each row's partner, ``batch``.

    >>> Mixing(0.75, torch.tensor([1, 0]))(torch.tensor([[0.0], [4.0]])).flatten()
    tensor([1., 3.])
    """

    weight: float
    partners: Tensor

    @classmethod
    def draw(cls, batch: int, concentration: float = 1.0) -> Mixing:
        """Draw from torch's global generator: ``max(w, 1 - w)`` of a Beta variable w, and a permutation.

        Parameters
        ----------
        batch
            Rows.
        concentration
            Both parameters of the Beta distribution; 1 is uniform.

        Notes
        -----
        Source: Zhang et al., ICLR 2018 (mixup); the larger part stays dominant as in Zhou et al., MICCAI 2020.
        """
        return cls(draw_weight(concentration), torch.randperm(batch))

    @classmethod
    def evenly(cls, batch: int) -> Mixing:
        """Blend each row half and half with the one before, for scores and previews.

        >>> Mixing.evenly(2)(torch.tensor([[0.0], [4.0]])).flatten()
        tensor([2., 2.])
        """
        return cls(0.5, torch.arange(batch).roll(1))

    def __call__(self, rows: Tensor) -> Tensor:
        """Blend every row of ``batch ...`` with its partner."""
        return torch.lerp(rows[self.partners.to(rows.device)], rows, self.weight)


def draw_weight(concentration: float = 1.0) -> float:
    """Draw the larger part of two, ``max(w, 1 - w)`` of a Beta variable w, from torch's global generator.

    >>> 0.5 <= draw_weight() <= 1
    True
    """
    both = torch.tensor(concentration, dtype=torch.float64)
    weight = float(torch.distributions.Beta(both, both).sample())
    return max(weight, 1 - weight)
