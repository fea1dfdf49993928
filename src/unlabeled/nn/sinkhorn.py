"""Soft permutations: the Sinkhorn operator, and the permutation that it tends to."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]
from torch import Tensor

#: Below this, differences of logits leave so little of all but the largest that single precision loses them.
LEAST_TEMPERATURE = 0.05


def sinkhorn(
    logits: Float[Tensor, "*batch row column"], temperature: float = 1.0, rounds: int = 20
) -> Float[Tensor, "*batch row column"]:
    """Make a matrix almost doubly stochastic: rows, then columns, are brought to sum 1, again and again.

    It works on logarithms and in single precision, whatever the precision of the logits, so that nothing overflows.
    Numbers added to whole rows or columns of the logits change nothing but how fast it settles.

    Parameters
    ----------
    logits
        Any numbers.
    temperature
        Divides the logits; towards 0 the result tends to the permutation of `match`.
    rounds
        How often; columns, which come last, sum to 1 exactly, rows nearly.

    Returns
    -------
    Tensor
        Float32, not negative.

    Notes
    -----
    Source: Mena et al., ICLR 2018, as in their published code.

    >>> sinkhorn(torch.tensor([[2.0, 1.0], [1.0, 3.0]]).log(), rounds=1)
    tensor([[0.7273, 0.3077],
            [0.2727, 0.6923]])
    """
    with torch.autocast(logits.device.type, enabled=False):
        powers = logits.float() / temperature
        for _ in range(rounds):
            powers = powers.log_softmax(-1).log_softmax(-2)
        return powers.exp()


def match(logits: Float[Tensor, "*batch row column"]) -> Int[Tensor, "*batch row"]:
    """Give each row a column of its own, so that the sum of their logits is largest (the Hungarian method).

    Returns
    -------
    Tensor
        The columns, on the device of the logits; no gradient.

    >>> match(torch.tensor([[5.0, 4.0], [4.9, 0.0]]))         # 4 + 4.9 > 5 + 0
    tensor([1, 0])
    """
    rows, columns = logits.shape[-2:]
    numbers = logits.detach().double().cpu().numpy().reshape(-1, rows, columns)
    found = [linear_sum_assignment(one, maximize=True)[1] for one in numbers]
    return torch.from_numpy(np.stack(found)).view(logits.shape[:-1]).to(logits.device)
