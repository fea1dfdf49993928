"""How well a number puts two groups apart."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def area_under_curve(
    higher: Float[Tensor, " high"], lower: Float[Tensor, " low"]
) -> Float[Tensor, ""]:
    """Count how often a value of one group exceeds one of the other; equal ones count half (the AUC of Mann and Whitney).

    1 where all exceed, 0.5 where the groups are alike, and where one is empty.

    >>> import torch
    >>> area_under_curve(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]))
    tensor(0.6250)
    """
    if not higher.numel() or not lower.numel():
        return higher.new_tensor(0.5)
    gap = higher[:, None] - lower[None, :]
    return ((gap > 0).to(gap.dtype) + 0.5 * (gap == 0).to(gap.dtype)).mean()
