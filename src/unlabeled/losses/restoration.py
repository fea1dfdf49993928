"""Losses between a restored image and the true one, and how far apart their histograms are."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor


def masked_error(
    restored: Float[Tensor, "batch channel *space"],
    truth: Float[Tensor, "batch channel *space"],
    mask: Bool[Tensor, "batch channel *space"],
    power: Literal[1, 2] = 2,
) -> Float[Tensor, ""]:
    """Mean of ``|restored - truth| ** power`` over the masked voxels of the whole batch; 0 where there are none.

    What is restored elsewhere neither counts nor gets a gradient.

    Parameters
    ----------
    restored, truth
        In the same unit; elsewhere `truth` may hold anything finite.
    mask
        Voxels that count.
    power
        2 for the squared, 1 for the absolute error.

    Notes
    -----
    Source: Krull et al., CVPR 2019, eq. 7, as in the n2v code (sum over masked pixels, divided by their number).

    >>> import torch
    >>> mask = torch.tensor([[[True, True, False]]])
    >>> masked_error(torch.tensor([[[1.0, 4.0, 9.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]]), mask)
    tensor(2.)
    """
    apart = (restored.float() - truth.float()).abs() * mask
    return apart.pow(power).sum() / mask.sum().clamp(min=1)


def histogram_distance(
    one: Float[Tensor, "batch channel *space"], other: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, ""]:
    """Mean distance that intensities have to move to give `one` the histogram of `other`, over images and channels.

    It has the unit of the intensities; where they lie in space does not matter.

    Notes
    -----
    Source: the Wasserstein-1 distance of two samples of equal size is the mean distance of their sorted values.

    >>> import torch
    >>> histogram_distance(torch.tensor([[[0.0, 1.0, 0.5]]]), torch.tensor([[[1.0, 0.5, 0.3]]]))
    tensor(0.1000)
    """
    first, second = (image.float().flatten(2).sort(2).values for image in (one, other))
    return (first - second).abs().mean()
