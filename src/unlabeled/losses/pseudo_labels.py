"""Pseudo-labels: several predictions of one image averaged, how certain they are, and losses that learn from them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def average_predictions(
    predictions: Float[Tensor, "draw batch classes *space"],
    losses: Float[Tensor, " draw"] | None = None,
) -> Float[Tensor, "batch classes *space"]:
    """Average probabilities over several predictions: a pseudo-label, without gradient.

    Parameters
    ----------
    predictions
        Probabilities that sum to 1 over classes.
    losses
        Of each prediction's network: its weight is the softmax of minus the loss; without them, all weigh alike.

    Notes
    -----
    Weights sum to 1, so the result is a probability again.  ``1 - loss / sum``, which another implementation takes, sums
    to one less than there are predictions.

    >>> p = torch.tensor([0.9, 0.6, 0.2])
    >>> p = torch.stack([1 - p, p], 1)[:, None]                       # one image, two classes, no axis of space
    >>> average_predictions(p)[0, 1]
    tensor(0.5667)
    >>> average_predictions(p, torch.tensor([0.5, 1.0, 2.0]))[0, 1]   # weights 0.5465, 0.3315, 0.1220
    tensor(0.7152)
    """
    given = predictions.detach().float()
    if losses is None:
        return given.mean(0)
    weights = (-losses.detach().float()).softmax(0)
    averaged: Tensor = torch.tensordot(weights, given, dims=1)
    return averaged


def entropy(likely: Float[Tensor, "batch classes *space"]) -> Float[Tensor, batch * space]:
    """Entropy of every voxel's probabilities [nat]; 0 where one class is certain.

    >>> entropy(torch.tensor([[0.433333, 0.566667]]))
    tensor([0.6842])
    """
    summed: Tensor = torch.special.entr(likely.float()).sum(1)
    return summed


def doubt(likely: Float[Tensor, "batch classes *space"]) -> Float[Tensor, batch * space]:
    """Entropy of every voxel over the largest one there is: 0 where one class is certain, 1 where all are as likely.

    >>> doubt(torch.tensor([[[0.5, 0.433333, 1.0], [0.5, 0.566667, 0.0]]]))
    tensor([[1.0000, 0.9871, 0.0000]])
    """
    return (entropy(likely) / math.log(likely.shape[1])).clamp(0, 1)


def certain_cross_entropy(
    logits: Float[Tensor, "batch classes *space"], likely: Float[Tensor, "batch classes *space"]
) -> Float[Tensor, ""]:
    """Mean over voxels of the cross entropy to soft labels [nat], times how certain these are.

    The certainty is one minus the entropy over its largest value: 1 where one class is sure, 0 where all are as likely.

    Parameters
    ----------
    logits
        Before the softmax, of two classes or more.
    likely
        Soft labels; the gradient does not reach them.

    >>> logits = torch.tensor([[0.3, 0.7]]).log()
    >>> certain_cross_entropy(logits, torch.tensor([[0.433333, 0.566667]]))    # 0.012862 * 0.723837
    tensor(0.0093)
    """
    likely = likely.detach().float()
    return -((1 - doubt(likely)) * (likely * logits.float().log_softmax(1)).sum(1)).mean()


def squared_difference(
    logits: Float[Tensor, "batch classes *space"], likely: Float[Tensor, "batch classes *space"]
) -> Float[Tensor, ""]:
    """Mean over voxels and classes of the squared difference to soft labels, whatever their certainty [0 to 1].

    >>> squared_difference(torch.tensor([[0.3, 0.7]]).log(), torch.tensor([[0.433333, 0.566667]]))
    tensor(0.0178)
    """
    return (logits.float().softmax(1) - likely.detach().float()).square().mean()


def risen(over: Float[Tensor, ""], share: float) -> Float[Tensor, ""]:
    """Let the weight of a loss rise linearly from 0 to 1 over a share of the training; without a share it is 1.

    >>> [float(risen(torch.tensor(over), 0.5)) for over in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return (over / share).clamp(max=1.0) if share else torch.ones_like(over)


def label_scores(
    likely: Float[Tensor, "batch classes *space"],
    labels: Int[Tensor, batch * space],
    bins: int = 10,
) -> dict[str, Tensor]:
    """Score probabilities against labels, over the whole batch.

    Parameters
    ----------
    likely
        Probabilities; the likeliest class counts as the answer.
    labels
        Class of every voxel.
    bins
        Of equal width in the probability of the answer, for ``calibration``.

    Returns
    -------
    dict
        ``dice`` and ``iou``: means over the foreground classes that are there, 0 where none is; ``dice_everything``: Dice of
        answering the class everywhere; ``calibration``: expected calibration error, the mean distance between how sure an
        answer is and how often such answers are right.

    >>> likely = torch.tensor([[[0.4, 0.4, 0.9, 0.9], [0.6, 0.6, 0.1, 0.1]]])
    >>> scores = label_scores(likely, torch.tensor([[0, 1, 1, 0]]))
    >>> {name: round(float(value), 4) for name, value in scores.items()}
    {'dice': 0.5, 'iou': 0.3333, 'dice_everything': 0.6667, 'calibration': 0.25}
    """
    sure, answer = likely.float().max(1)
    classes = torch.arange(1, likely.shape[1], device=likely.device)
    classes = classes.view(-1, *[1] * labels.ndim)
    truth, found = labels[None] == classes, answer[None] == classes
    sizes, many, both = (each.flatten(1).sum(1).float() for each in (truth, found, truth & found))
    there = (sizes > 0).float()
    count = there.sum().clamp(min=1)
    right = (answer == labels).float()
    place = (sure * bins).long().clamp(max=bins - 1)
    gaps = [((right - sure) * (place == one)).mean().abs() for one in range(bins)]
    return {
        "dice": (there * 2 * both / (many + sizes).clamp(min=1)).sum() / count,
        "iou": (there * both / (many + sizes - both).clamp(min=1)).sum() / count,
        "dice_everything": (there * 2 * sizes / (labels.numel() + sizes)).sum() / count,
        "calibration": torch.stack(gaps).sum(),
    }
