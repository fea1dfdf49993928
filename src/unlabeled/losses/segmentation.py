"""Losses of segmentation: soft Dice, Dice + cross entropy, focal loss + logarithm of Dice, weighted cross entropies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def dice_loss(
    logits: Float[Tensor, "batch classes *space"],
    labels: Int[Tensor, batch * space],
    *,
    batch: bool = False,
    background: bool = False,
) -> Float[Tensor, ""]:
    """One minus the soft Dice of the foreground classes that are there, averaged [0 to 1].

    A class that a sample's truth does not hold gives no term: its Dice would be 0 / 0 for a perfect answer and is flat
    almost everywhere for a wrong one; the cross entropy beside it already asks for its absence.  A batch without any
    foreground costs 0.

    Parameters
    ----------
    logits
        Before the softmax; class 0 is the background and gives no term unless `background` says so.
    labels
        Class of every voxel, 0 to classes - 1.
    batch
        Count overlaps over the whole batch, as if it were one scan (the steadier choice where classes are rare),
        instead of sample by sample.
    background
        Whether class 0 gives a term as well (Chaitanya et al., NeurIPS 2020).

    Notes
    -----
    Source: Milletari et al., 3DV 2016, with the sum of probabilities below the line as in nnU-Net (Isensee et al.,
    Nature Methods 2021).

    >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])          # two voxels, p = 1/2 for both classes
    >>> dice_loss(logits, torch.tensor([[0, 1]]))                  # 1 - 2 * 0.5 / (0.5 + 0.5 + 1)
    tensor(0.5000)
    >>> dice_loss(logits, torch.tensor([[0, 0]]))                  # nothing there to overlap with
    tensor(0.)
    """
    first = 0 if background else 1
    classes = torch.arange(first, logits.shape[1], device=logits.device)
    truth = labels[:, None] == classes.view(1, -1, *[1] * (labels.ndim - 1))
    likely = logits.float().softmax(1)[:, first:]
    space = tuple(range(2, logits.ndim))
    over = (0, *space) if batch else space
    overlap = (likely * truth).sum(over)
    sizes = truth.sum(over)
    dice = 2 * overlap / (likely.sum(over) + sizes)
    there = sizes > 0
    return ((1 - dice) * there).sum() / there.sum().clamp(min=1)


def dice_cross_entropy(
    logits: Float[Tensor, "batch classes *space"],
    labels: Int[Tensor, batch * space],
    *,
    batch: bool = False,
) -> Float[Tensor, ""]:
    """Sum of `dice_loss` and the mean cross entropy over all voxels [nat], equally weighted as in nnU-Net.

    >>> dice_cross_entropy(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))    # 0.5 + log 2
    tensor(1.1931)
    """
    return dice_loss(logits, labels, batch=batch) + F.cross_entropy(logits.float(), labels)


def focal_dice(
    logits: Float[Tensor, "batch classes *space"],
    labels: Int[Tensor, batch * space],
    *,
    focal: float = 10.0,
    focus: float = 2.0,
    smooth: float = 1.0,
) -> Float[Tensor, ""]:
    """So many times the focal loss, minus the logarithm of the soft Dice; both of each foreground class against the rest.

    Parameters
    ----------
    logits
        Before the softmax; class 0 is the background and gives no term.
    labels
        Class of every voxel, 0 to classes - 1.
    focal
        Weight of the focal loss, a mean over all voxels.
    focus
        Power of the error that weighs each voxel's cross entropy.
    smooth
        Added above and below the line of Dice, which is counted over the whole batch.

    Notes
    -----
    Source: official code of GLoRIA (Huang et al., ICCV 2021) for its segmentation of pneumothorax, which has one logit;
    of two classes it is their difference, of more (ours) a class's log odds.

    >>> focal_dice(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))    # 10 * log(2) / 4 - log(2 / 3)
    tensor(2.1383)
    """
    scores = logits.float()
    odds = []
    for one in range(1, scores.shape[1]):
        rest = torch.cat([scores[:, :one], scores[:, one + 1 :]], 1).logsumexp(1)
        odds.append(scores[:, one] - rest)
    found = torch.stack(odds, 1)
    classes = torch.arange(1, scores.shape[1], device=scores.device)
    truth = (labels[:, None] == classes.view(1, -1, *[1] * (labels.ndim - 1))).float()
    cross = F.binary_cross_entropy_with_logits(found, truth, reduction="none")
    error = F.logsigmoid(-found * (2 * truth - 1)).mul(focus).exp()
    likely = found.sigmoid()
    over = (0, *range(2, found.ndim))
    dice = (2 * (likely * truth).sum(over) + smooth) / (likely.sum(over) + truth.sum(over) + smooth)
    return focal * (error * cross).mean() - dice.log().mean()


def weighted_cross_entropy(
    logits: Float[Tensor, "batch classes *space"],
    labels: Int[Tensor, batch * space],
    weights: Sequence[float],
) -> Float[Tensor, ""]:
    """Mean over all voxels of the cross entropy [nat] times the weight of the true class.

    Divided by the number of voxels, not by the sum of their weights, so that a batch with more of a heavy class costs
    more.  A voxel labelled -1 costs nothing, but counts.

    Notes
    -----
    Source: the VoidSeg code (Prakash et al., ISBI 2020).

    >>> weighted_cross_entropy(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]), [1.0, 3.0])    # 2 log 2
    tensor(1.3863)
    """
    weight = torch.tensor(weights, device=logits.device)
    summed = F.cross_entropy(logits.float(), labels, weight, ignore_index=-1, reduction="sum")
    return summed / labels.numel()


def region_cross_entropy(
    logits: Float[Tensor, "batch 2 *space"],
    region: Float[Tensor, batch * space],
    background: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Mean over a sample's pixels of the cross entropy [nat], each weighted by its class, a sample.

    Divided by the sum of the weights, so that a small region costs as much as a large one.

    Parameters
    ----------
    logits
        Of background and region.
    region
        0 and 1.
    background
        Weight of background pixels; the region has 1.

    Notes
    -----
    Source: Ouyang et al., ECCV 2020, official code.

    >>> logits = torch.tensor([[[0.0, 9.0], [0.0, -9.0]]])                  # unsure of the region, sure of the rest
    >>> region_cross_entropy(logits, torch.tensor([[1.0, 0.0]]), background=0.0)    # log 2
    tensor([0.6931])
    """
    weight = torch.where(region > 0, 1.0, background)
    each = F.cross_entropy(logits, region.long(), reduction="none") * weight
    return each.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-12)


def region_dice(
    found: Float[Tensor, batch * space], truth: Float[Tensor, batch * space]
) -> dict[str, Tensor]:
    """Mean Dice of regions of 0 and 1 over samples, beside that of calling every pixel the region.

    >>> scores = region_dice(torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[0.0, 1, 1, 0]]))
    >>> scores["dice"], scores["dice_everything"]
    (tensor(0.5000), tensor(0.6667))
    """
    share = truth.flatten(1).mean(1)
    both = 2 * (found * truth).flatten(1).mean(1)
    return {
        "dice": (both / (found.flatten(1).mean(1) + share)).mean(),
        "dice_everything": (2 * share / (1 + share)).mean(),
    }


def foreground_loss(
    logits: Float[Tensor, "*any"], truth: Float[Tensor, "*any"]
) -> Float[Tensor, ""]:
    """Sum of the mean cross entropy of one logit a voxel [nat] and one minus the soft Dice of everything at once.

    >>> foreground_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))    # log 2 + 0.5
    tensor(1.1931)
    """
    logits = logits.float()
    cross = F.binary_cross_entropy_with_logits(logits, truth)
    return cross + overlap_loss(logits.sigmoid(), truth, smooth=1e-6)


def dice(found: Float[Tensor, "*any"], truth: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """Dice of two regions of 0 and 1, of everything at once; of two empty ones 0 [0 to 1].

    >>> dice(torch.tensor([1.0, 1, 0]), torch.tensor([0.0, 1, 1]))
    tensor(0.5000)
    """
    return 1 - overlap_loss(found, truth, smooth=1e-6)


def dice_of_classes(found: Int[Tensor, "*any"], truth: Int[Tensor, "*any"]) -> Float[Tensor, ""]:
    """Dice of each class but 0, of everything at once, mean over those that are found or true; 1 where none is.

    >>> dice_of_classes(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 1, 0]))     # 1 and 0
    tensor(0.5000)
    """
    each = []
    for one in range(1, int(torch.maximum(found.max(), truth.max())) + 1):
        there, seen = truth == one, found == one
        if there.any() or seen.any():
            each.append(2 * (there & seen).sum() / (there.sum() + seen.sum()))
    return torch.stack(each).mean() if each else torch.ones((), device=found.device)


def overlap_loss(
    likely: Float[Tensor, "*any"], truth: Float[Tensor, "*any"], *, smooth: float = 1.0
) -> Float[Tensor, ""]:
    """One minus the soft Dice of everything at once, with a constant below the line alone [0 to 1].

    Where nothing is true and nothing found it costs 1, and has no gradient that could be followed.

    Parameters
    ----------
    likely
        Probability of the foreground, any shape.
    truth
        0 and 1, of the same shape.
    smooth
        Added to the sum of both, not to their overlap.

    Notes
    -----
    Source: official code of Kayal et al., MICCAI 2020, for their segmentation.

    >>> overlap_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))    # 1 - 2 * 0.5 / (1 + 1 + 1)
    tensor(0.6667)
    """
    likely = likely.float()
    return 1 - 2 * (likely * truth).sum() / (likely.sum() + truth.sum() + smooth)


def box_dice(
    found: Int[Tensor, batch * space], truth: Int[Tensor, batch * space], classes: int
) -> Float[Tensor, ""]:
    """Mean Dice over classes 1 to `classes` that the truth of a batch holds, each counted over the whole batch.

    A truth without any of them gives 0.

    >>> box_dice(torch.tensor([[1, 1, 0, 2]]), torch.tensor([[1, 0, 0, 3]]), 3)    # (2 / 3 + 0) / 2
    tensor(0.3333)
    """
    numbers = torch.arange(1, classes + 1, device=truth.device).view(-1, 1)
    there, seen = truth.reshape(1, -1) == numbers, found.reshape(1, -1) == numbers
    sizes = there.sum(1)
    dice = 2 * (there & seen).sum(1) / (sizes + seen.sum(1)).clamp(min=1)
    held = sizes > 0
    return (dice * held).sum() / held.sum().clamp(min=1)
