"""Losses and scores of puzzles: the order of the pieces, and yes-or-no questions about every slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def slot_loss(
    logits: Float[Tensor, "batch slot"],
    bits: Float[Tensor, "batch slot"],
    reduction: Literal["mean", "sum"] = "mean",
    counts: Float[Tensor, "batch slot"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of a question about each slot, mean over the batch [nat].

    The Rubik's cube paper prints the terms of the turned slots alone (``- sum g log r``), which answering yes
    everywhere makes zero; this is the whole cross entropy.  Knowing nothing costs ``log 2`` a slot.

    Parameters
    ----------
    logits
        Before the sigmoid.
    bits
        1 where the answer is yes, else 0.
    reduction
        Over the slots: the mean, or the sum as the paper has it.
    counts
        1 where the question has an answer, else 0; without it, everywhere.  The mean is over slots that count.

    Notes
    -----
    Source: Zhuang et al., MICCAI 2019, with the missing terms.

    >>> slot_loss(torch.tensor([[0.8, 0.3]]).logit(), torch.tensor([[1.0, 0.0]]))  # -(log 0.8 + log 0.7) / 2
    tensor(0.2899)
    >>> slot_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), "sum")  # 2 log 2
    tensor(1.3863)
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), bits, reduction="none")
    if counts is None:
        return each.mean() if reduction == "mean" else each.sum(1).mean()
    counted = (each * counts).sum()
    return counted / (counts.sum().clamp(min=1) if reduction == "mean" else len(counts))


def scramble_losses(
    told: Mapping[str, Tensor],
    order: Tensor,
    horizontal: Float[Tensor, "batch slot"],
    vertical: Float[Tensor, "batch slot"],
    reduction: Literal["mean", "sum"] = "mean",
) -> dict[str, Tensor]:
    """Compare with what was done: ``order``, and ``rotation``, the sum of both ways of turning [nat].

    Parameters
    ----------
    told
        Logits: ``order`` ``batch order``, ``horizontal`` and ``vertical`` ``batch slot``.
    order
        ``batch``: numbers of the orders.
    horizontal, vertical
        1 where the slot is turned, else 0.
    reduction
        Over the slots, as in `slot_loss`.

    Notes
    -----
    Source: Zhuang et al., MICCAI 2019.
    """
    return {
        "order": F.cross_entropy(told["order"].float(), order),
        "rotation": slot_loss(told["horizontal"], horizontal, reduction)
        + slot_loss(told["vertical"], vertical, reduction),
    }


def scramble_scores(
    told: Mapping[str, Tensor],
    order: Tensor,
    horizontal: Float[Tensor, "batch slot"],
    vertical: Float[Tensor, "batch slot"],
    p_turned: float,
) -> dict[str, Tensor]:
    """Count right answers, beside what is right by chance: any order, and the commoner answer about turns.

    Arguments are those of `scramble_losses`; `p_turned` is the probability that a slot is turned in one of the ways.
    """
    turned = torch.stack([horizontal, vertical])
    said = torch.stack([told["horizontal"], told["vertical"]]) > 0
    right = (said == (turned > 0.5)).float().mean((1, 2))
    return {
        "order": (told["order"].argmax(1) == order).float().mean(),
        "order chance": torch.tensor(1 / told["order"].shape[1]),
        "horizontal": right[0],
        "vertical": right[1],
        "rotation chance": torch.tensor(max(p_turned, 1 - p_turned)),
    }
