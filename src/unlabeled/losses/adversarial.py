"""Losses of a generator and the critic that it has to convince."""

from __future__ import annotations

from collections.abc import Callable

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


def wasserstein_gap(
    real: Float[Tensor, " batch"], made: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """How much better a critic likes real images than made ones: what it maximises, an estimate of their distance.

    It estimates the Wasserstein-1 distance of the two distributions, up to a factor, as far as the critic's slope is
    bounded (`gradient_penalty`, or small weights).

    Notes
    -----
    Source: Arjovsky et al., ICML 2017, eq. 3.

    >>> wasserstein_gap(torch.tensor([0.4, 1.2, -0.3]), torch.tensor([-0.5, 0.1, 0.2]))
    tensor(0.5000)
    """
    return real.float().mean() - made.float().mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "batch channel *space"],
    made: Float[Tensor, "batch channel *space"],
    shares: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean squared distance from 1 of the critic's slope between real and made images.

    Parameters
    ----------
    critic
        Gives one number an image, without normalising over the batch: each slope is of its own image.
    real, made
        Images side by side; neither gets a gradient.
    shares
        Of the real image in each mixture where the slope is measured, in [0, 1].

    Notes
    -----
    Source: Gulrajani et al., NeurIPS 2017, eq. 3.

    >>> image = torch.ones(2, 1, 2, 2)
    >>> gradient_penalty(lambda seen: 0.5 * seen.sum((1, 2, 3)), image, 0 * image, torch.rand(2))  # of slope 1
    tensor(0.)
    """
    share = shares.view(-1, *[1] * (real.ndim - 1))
    with torch.enable_grad():
        mixed = torch.lerp(made.detach().float(), real.detach().float(), share).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    steepness: Tensor = slope.flatten(1).norm(dim=1)
    return (steepness - 1).square().mean()
