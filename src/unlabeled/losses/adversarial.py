"""Losses of a generator and the critic that it has to convince."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def tell_apart(real: Float[Tensor, "*places"], made: Float[Tensor, "*places"]) -> Float[Tensor, ""]:
    """Half the cross entropy of a critic that shall say 1 of real images and 0 of made ones [nat].

    Parameters
    ----------
    real, made
        Its logits.

    Notes
    -----
    Source: Goodfellow et al., NeurIPS 2014; the half is that of Isola et al., CVPR 2017.

    >>> tell_apart(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-1.0, 0.3, 1.0]))
    tensor(0.7325)
    """
    real, made = real.float(), made.float()
    ones, zeros = torch.ones_like(real), torch.zeros_like(made)
    right = F.binary_cross_entropy_with_logits(real, ones)
    return 0.5 * (right + F.binary_cross_entropy_with_logits(made, zeros))


def convince(made: Float[Tensor, "*places"]) -> Float[Tensor, ""]:
    """Cross entropy of a critic that shall say 1 of made images: what their generator minimises [nat].

    Notes
    -----
    Source: the non-saturating form of Goodfellow et al., NeurIPS 2014.

    >>> convince(torch.tensor([-1.0, 0.3, 1.0]))
    tensor(0.7270)
    """
    return F.binary_cross_entropy_with_logits(made.float(), torch.ones_like(made.float()))
