"""How unlike two images on one grid are: local correlation, and self-similarity where contrasts differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Keeps the correlation of flat neighbourhoods finite, in units of variance squared (published code).
FLAT = 1e-8
#: Weight of the mean squared error beside the correlation, for flat neighbourhoods (published code).
ANCHOR = 1e-5


def correlation_loss(
    image: Float[Tensor, "batch channel *space"],
    other: Float[Tensor, "batch channel *space"],
    *,
    window: int = 3,
) -> Float[Tensor, ""]:
    """One minus the mean squared correlation of neighbourhoods, plus 1e-5 times the mean squared error [0 to 1].

    A neighbourhood is a cube of edge `window` with zeros beyond the image; a linear change of one image's contrast
    costs nothing but the last term.

    Notes
    -----
    Source: Avants et al., Medical Image Analysis 2008, with the constants of Bhalodia et al.'s code.

    >>> ramp = torch.arange(25.0).view(1, 1, 5, 5)
    >>> correlation_loss(ramp, ramp).abs() < 1e-4
    tensor(True)
    """
    first, second = image.float(), other.float()
    moments = (first, second, first * first, second * second, first * second)
    mean, mean_other, square, square_other, product = (_box(each, window) for each in moments)
    covariance = product - mean * mean_other
    variance = (square - mean**2).clamp(min=0) * (square_other - mean_other**2).clamp(min=0)
    voxels = window ** (image.ndim - 2)
    correlation: Tensor = covariance**2 / (variance + FLAT / voxels**2)
    return 1 - correlation.mean() + ANCHOR * F.mse_loss(first, second)


def self_similarity(
    image: Float[Tensor, "batch channel *space"], *, radius: int = 2, dilation: int = 2
) -> Float[Tensor, "batch described *space"]:
    """Describe each voxel by how alike its neighbours are to one another, whatever their contrast: MIND-SSC.

    Of the neighbours at distance `dilation` along the axes, all pairs at right angles are compared: 12 in 3D, 4 in 2D.
    A descriptor is ``exp(-(D - min D) / V)`` with the mean squared difference D of the patches around both, and their
    own mean V (within 1/1000 to 1000 times its average over the image).

    Parameters
    ----------
    image
        Channels are described one by one; ``described`` is ``channel * pairs``.
    radius
        Half edge of the patches [voxel].
    dilation
        Distance of the neighbours [voxel].

    Returns
    -------
    Tensor
        In (0, 1].

    Notes
    -----
    Source: Heinrich et al., MICCAI 2013; the outer voxels are repeated beyond the image, as in Bhalodia et al.'s code.
    """
    batch, channels, *space = image.shape
    single = image.reshape(batch * channels, 1, *space)
    padded = _repeat(single, dilation)
    distances = []
    for one, two in _right_angles(len(space)):
        between = _shifted(padded, one, dilation, space) - _shifted(padded, two, dilation, space)
        distances.append(_box(_repeat(between.square(), radius), 2 * radius + 1, inside=True))
    distance = torch.cat(distances, dim=1)
    distance = distance - distance.amin(1, keepdim=True)
    scale = distance.mean(1, keepdim=True)
    usual = scale.flatten(1).mean(1).view(-1, *[1] * (image.ndim - 1)).clamp(min=1e-12)
    described = torch.exp(-distance / scale.clamp(usual * 1e-3, usual * 1e3))
    return described.view(batch, -1, *space)


def self_similarity_loss(
    image: Float[Tensor, "batch channel *space"], other: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, ""]:
    """Mean squared difference of both images' `self_similarity` [0 to 1].

    >>> noise = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    >>> self_similarity_loss(noise, 5 - 2 * noise) < 1e-10  # contrast is not seen, not even inverted
    tensor(True)
    """
    return F.mse_loss(self_similarity(image), self_similarity(other))


def _right_angles(dims: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """List the pairs of neighbours along the axes whose directions are at right angles."""
    units = [
        tuple(sign * int(axis == other) for other in range(dims))
        for axis in range(dims)
        for sign in (-1, 1)
    ]
    return [
        (one, two)
        for one, two in itertools.combinations(units, 2)
        if not sum(a * b for a, b in zip(one, two, strict=True))
    ]


def _shifted(padded: Tensor, direction: Sequence[int], by: int, space: Sequence[int]) -> Tensor:
    """Cut the image out of its padded copy, moved along a direction."""
    cut = [
        slice(by + by * way, by + by * way + edge)
        for way, edge in zip(direction, space, strict=True)
    ]
    return padded[(slice(None), slice(None), *cut)]


def _repeat(image: Tensor, by: int) -> Tensor:
    """Repeat the outer voxels so many times on every side."""
    return F.pad(image, [by] * (2 * (image.ndim - 2)), mode="replicate")


def _box(image: Tensor, edge: int, *, inside: bool = False) -> Tensor:
    """Average over cubes, zeros beyond the image; with `inside`, over those that lie in it."""
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    return pool(image, edge, stride=1, padding=0 if inside else edge // 2)
