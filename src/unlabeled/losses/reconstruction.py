"""Losses between pictures and what a brain answers to them: voxels, pixels, smoothness, grouped weights.

Source of all: Beliy et al., NeurIPS 2019, as in the official code; rows are summed up by their mean.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def cosine_proximity(
    truth: Float[Tensor, "batch voxels"], guess: Float[Tensor, "batch voxels"]
) -> Float[Tensor, " batch"]:
    """Negative cosine of the angle between two responses: -1 where they point the same way.

    >>> cosine_proximity(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]))
    tensor([-1.])
    """
    return -F.cosine_similarity(truth.float(), guess.float(), dim=1, eps=1e-8)


def response_error(
    truth: Float[Tensor, "batch voxels"], guess: Float[Tensor, "batch voxels"], proximity: float
) -> Float[Tensor, " batch"]:
    """Mean squared error over voxels plus so much of the cosine proximity, a row: what an encoder of pictures minimises.

    A perfect guess costs ``-proximity``.
    """
    squared = (truth.float() - guess.float()).square().mean(dim=1)
    return squared + proximity * cosine_proximity(truth, guess)


def reliable_error(
    truth: Float[Tensor, "batch voxels"],
    guess: Float[Tensor, "batch voxels"],
    reliability: Float[Tensor, " voxels"],
    proximity: float,
) -> Float[Tensor, " batch"]:
    """Mean absolute error over voxels, each as much as it is reliable, plus so much of the cosine proximity, a row.

    >>> trusted = torch.tensor([2.0, 0.0])
    >>> reliable_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 9.0]]), trusted, 0.0)
    tensor([0.])
    """
    absolute = (reliability * (truth.float() - guess.float()).abs()).mean(dim=1)
    return absolute + proximity * cosine_proximity(truth, guess)


def relative_error(
    truth: Float[Tensor, "batch channel *space"],
    guess: Float[Tensor, "batch channel *space"],
    magnitude: Float[Tensor, " channel"],
) -> Float[Tensor, " batch"]:
    """Mean absolute error, a row, every channel in units of its usual magnitude.

    >>> relative_error(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([0.5]))
    tensor([2.])
    """
    apart = (truth.float() - guess.float()).abs().flatten(2).mean(dim=2)
    return (apart / magnitude).mean(dim=1)


def mean_magnitude(maps: Float[Tensor, "batch channel *space"]) -> Float[Tensor, " channel"]:
    """Mean absolute value of each channel: the unit of `relative_error`.

    >>> mean_magnitude(torch.tensor([[[-1.0, 3.0]]]))
    tensor([2.])
    """
    return maps.float().abs().transpose(0, 1).flatten(1).mean(dim=1)


def total_variation(
    picture: Float[Tensor, "batch channel rows columns"], power: float = 1.25
) -> Float[Tensor, " batch"]:
    """Mean over pixels and channels of the squared gradient to a power; 0 where a picture is constant.

    Each pixel is compared with the next row and the next column; the last row and column have none and are left out.

    >>> total_variation(torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]]), power=1.0)
    tensor([4.])
    """
    inner = picture[..., :-1, :-1].float()
    down = picture[..., 1:, :-1].float() - inner
    right = picture[..., :-1, 1:].float() - inner
    squared = down.square() + right.square()
    return squared.pow(power).flatten(1).mean(dim=1)


def group_lasso(
    kernel: Float[Tensor, "voxels channel rows columns"],
    single: float,
    group: float,
    neighbours: float = 0.5,
) -> Float[Tensor, ""]:
    """Press single weights, and whole groups of them, to zero: a voxel shall look at few places.

    A group is the channels at one place for one voxel.  ``single * mean |w| + group * mean sqrt(mean over channels q)``
    where ``q = (w^2 + neighbours * mean of the four neighbours' w^2) / (1 + neighbours)``; beyond the border a place
    is its own neighbour.

    >>> round(float(group_lasso(torch.full((1, 2, 3, 3), -2.0), 1.0, 10.0)), 4)
    22.0
    """
    weights = kernel.float()
    squares = weights.square().mean(dim=1, keepdim=True)
    if neighbours:
        framed = F.pad(squares, (1, 1, 1, 1), mode="replicate")
        around = (
            framed[..., :-2, 1:-1]
            + framed[..., 2:, 1:-1]
            + framed[..., 1:-1, :-2]
            + framed[..., 1:-1, 2:]
        ) / 4
        squares = (squares + neighbours * around) / (1 + neighbours)
    tiny = torch.finfo(torch.float32).tiny  # the root has no slope at zero
    return single * weights.abs().mean() + group * squares.clamp(min=tiny).sqrt().mean()


def kernel_penalty(kernels: Iterable[Tensor], single: float, square: float = 0.0) -> Tensor:
    """Sum ``single * |w| + square * w^2`` over all weights of some kernels.

    >>> kernel_penalty([torch.tensor([-2.0, 1.0])], 1.0, 10.0)
    tensor(53.)
    """
    terms = [
        single * kernel.float().abs().sum() + square * kernel.float().square().sum()
        for kernel in kernels
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def pixel_correlations(
    pictures: Float[Tensor, "batch channel rows columns"],
    others: Float[Tensor, "others channel rows columns"],
) -> Float[Tensor, "batch others"]:
    """Correlate the pixels of every picture with those of every other one; 0 where one of them is constant.

    >>> ramp = torch.arange(4.0).view(1, 1, 2, 2)
    >>> pixel_correlations(ramp, torch.cat([2 * ramp, -ramp])).round(decimals=4)
    tensor([[ 1., -1.]])
    """

    def centred(batch: Tensor) -> Tensor:
        flat = batch.float().flatten(1)
        return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1, eps=1e-8)

    return centred(pictures) @ centred(others).T


def identification(
    guesses: Float[Tensor, "batch channel rows columns"],
    truths: Float[Tensor, "batch channel rows columns"],
) -> Float[Tensor, ""]:
    """Share of two-way choices that guesses win: a guess should be more like its own picture than like another.

    Draws count half; pictures that occur twice are not held against each other; without any choice, 0.5.

    >>> eye = torch.eye(3).view(3, 1, 1, 3)
    >>> identification(eye, eye), identification(eye.roll(1, 0), eye)
    (tensor(1.), tensor(0.2500))
    """
    likeness = pixel_correlations(guesses, truths)
    own = likeness.diagonal()[:, None]
    other = (truths[:, None] != truths[None]).flatten(2).any(dim=2)
    won = (own > likeness).float() + 0.5 * (own == likeness).float()
    return (won * other).sum() / other.sum() if other.any() else won.new_tensor(0.5)


def response_scores(
    truth: Float[Tensor, "batch voxels"], guess: Float[Tensor, "batch voxels"]
) -> dict[str, Tensor]:
    """Measure the squared error of responses beside that of silence, and their correlation over voxels.

    >>> truth = torch.tensor([[1.0, -1.0]])
    >>> scores = response_scores(truth, 0.5 * truth)
    >>> scores["error"], scores["silence"]
    (tensor(0.2500), tensor(1.))
    """
    one, other = (each - each.mean(1, keepdim=True) for each in (guess, truth))
    return {
        "error": F.mse_loss(guess, truth),
        "correlation": F.cosine_similarity(one, other).mean(),
        "silence": truth.square().mean(),
    }


def picture_scores(
    truths: Float[Tensor, "batch channel rows columns"],
    guesses: Float[Tensor, "batch channel rows columns"],
) -> dict[str, Tensor]:
    """Measure `identification` beside its chance level, and the correlation of the pixels of guess and truth."""
    return {
        "identification": identification(guesses, truths),
        "correlation": pixel_correlations(guesses, truths).diagonal().mean(),
        "guessing": guesses.new_tensor(0.5),
    }
