"""Backgrounds without objects: which pixels to take away, what to put there, and the noise that belongs to it."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.ndimage import (  # type: ignore[attr-defined]
    binary_erosion,
    distance_transform_edt,
)
from torch import Generator, Tensor

_EDGES = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
_GAIN = 6.0  # what the kernel does to the deviation of white noise
_NORMAL = 1.4826  # deviation of normal values over the median of their magnitudes


def top_share(
    likely: Float[Tensor, "rows columns"], coarse: Bool[Tensor, "rows columns"], factor: float
) -> Bool[Tensor, "rows columns"]:
    """Take the likeliest pixels, `factor` times as many as the coarse label has (rounded up), those of the label first.

    By rank, not by a threshold: with ties there are no more of them; of equals the first ones are taken.

    >>> likely = torch.tensor([[0.9, 0.2, 0.2, 0.4]])
    >>> top_share(likely, torch.tensor([[True, False, False, False]]), 1.5)
    tensor([[ True, False, False,  True]])
    """
    count = min(likely.numel(), math.ceil(factor * int(coarse.sum()) - 1e-9))
    rank = (
        torch.where(coarse, torch.inf, likely.float())
        .flatten()
        .argsort(descending=True, stable=True)
    )
    taken = torch.zeros_like(coarse).flatten()
    taken[rank[:count]] = True
    return taken.view_as(coarse)


def widen(region: Bool[Tensor, "rows columns"], by: float) -> Bool[Tensor, "rows columns"]:
    """Add what lies within a distance of a region [pixel].

    >>> widen(torch.tensor([[False, False, True, False, False]]), 1)
    tensor([[False,  True,  True,  True, False]])
    """
    if not by or not region.any():
        return region.clone()
    return torch.from_numpy(distance_transform_edt(~region.numpy()) <= by)


def fill(
    image: Float[Tensor, "channel rows columns"], hidden: Bool[Tensor, "rows columns"]
) -> Float[Tensor, "channel rows columns"]:
    """Put into hidden pixels what surrounds them, smoothly; the others stay.

    Push and pull: the image is halved again and again, each time as the mean of what is known, until nothing is hidden;
    then each level's gaps take the enlarged next one.  Source: Gortler et al., SIGGRAPH 1996, section 3.3.

    Raises
    ------
    ValueError
        If everything is hidden.

    >>> fill(torch.tensor([[[1.0, 9.0, 3.0, 3.0]]]), torch.tensor([[False, True, False, False]])).shape
    torch.Size([1, 1, 4])
    """
    if bool(hidden.all()):
        raise ValueError("everything is hidden")
    known = (~hidden)[None, None].float()
    levels = [(torch.where(hidden, 0.0, image.float())[None], known)]
    while bool((levels[-1][1] < 1).any()) and max(levels[-1][0].shape[2:]) > 1:
        values, weight = levels[-1]
        halved = F.avg_pool2d(weight, 2, ceil_mode=True)
        mean = F.avg_pool2d(values * weight, 2, ceil_mode=True) / halved.clamp(min=1e-12)
        levels.append((mean, (4 * halved).clamp(max=1)))
    filled = levels.pop()[0]
    for values, weight in reversed(levels):
        larger = F.interpolate(filled, values.shape[2:], mode="bilinear", align_corners=False)
        filled = weight * values + (1 - weight) * larger
    return torch.where(hidden, filled[0], image.float())


def noise_level(
    image: Float[Tensor, "channel rows columns"], known: Bool[Tensor, "rows columns"]
) -> Float[Tensor, " channel"]:
    """Estimate the deviation of each channel's white noise over some pixels.

    The median magnitude of a difference that no plane leaves anything in, whose neighbourhood is known as well; 0 where
    there is none.  Source: the kernel of Immerkaer, CVIU 1996; the median, ours, heeds no edges.

    >>> clean = torch.linspace(0, 1, 64).expand(1, 64, 64)
    >>> noisy = clean + 0.1 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> noise_level(noisy, torch.ones(64, 64, dtype=torch.bool)).round(decimals=2)
    tensor([0.1000])
    """
    inner = binary_erosion(known.numpy(), np.ones((3, 3)))[1:-1, 1:-1]
    if not inner.any():
        return torch.zeros(len(image))
    kernel = _EDGES.to(image)[None, None]
    left = F.conv2d(image.float()[:, None], kernel)[:, 0]
    return left[:, torch.from_numpy(inner)].abs().median(dim=1).values * (_NORMAL / _GAIN)


def take_away(
    image: Float[Tensor, "channel rows columns"],
    hidden: Bool[Tensor, "rows columns"],
    rng: Generator,
) -> Float[Tensor, "channel rows columns"]:
    """Fill hidden pixels with what surrounds them and the noise of the rest, in [0, 1].

    Without noise a gap would be told by its smoothness.
    """
    noise = noise_level(image, ~hidden).view(-1, 1, 1)
    grainy = fill(image, hidden) + noise * torch.randn(image.shape, generator=rng)
    return torch.where(hidden, grainy.clamp(0, 1), image)
