"""Losses of puzzles: yes-or-no questions about every slot."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def slot_loss(
    logits: Float[Tensor, "batch slot"],
    bits: Float[Tensor, "batch slot"],
    reduction: Literal["mean", "sum"] = "mean",
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

    Notes
    -----
    Source: Zhuang et al., MICCAI 2019, with the missing terms.

    >>> import torch
    >>> slot_loss(torch.tensor([[0.8, 0.3]]).logit(), torch.tensor([[1.0, 0.0]]))  # -(log 0.8 + log 0.7) / 2
    tensor(0.2899)
    >>> slot_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), "sum")  # 2 log 2
    tensor(1.3863)
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), bits, reduction="none")
    return each.mean() if reduction == "mean" else each.sum(1).mean()
