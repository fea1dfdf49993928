"""What C2L and PCRL share: pairs of views, one after the other, told from a queue of the teacher's earlier keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.losses.contrastive import estimate_total, info_nce, noise_contrast
from unlabeled.nn.queue import Queue

Criterion: TypeAlias = Literal["softmax", "nce"]


class KeyContrast(nn.Module):
    """A queue of earlier keys, and the cost of telling pairs from it.

    Parameters
    ----------
    queue
        Keys that it holds.
    features
        Length of a key.
    criterion
        Softmax over the pair and the queue, or NCE.
    temperature
        Divides similarities.
    eps
        Of NCE.
    official
        As in the published code, a pair's keys are pushed before the next pair is compared, the first rows are uniform
        numbers, and Z of NCE is cut to a whole number, at least 1.

    Attributes
    ----------
    total
        Z of NCE; 0 before the first step.
    images
        How many there are to learn from, for NCE.
    """

    total: Tensor
    images: Tensor

    def __init__(
        self,
        queue: int,
        features: int,
        *,
        criterion: Criterion,
        temperature: float,
        eps: float,
        official: bool,
    ) -> None:
        super().__init__()
        self.criterion, self.official = criterion, official
        self.temperature, self.eps = temperature, eps
        self.queue = Queue(queue, features)
        if official:
            bound = (3 / features) ** 0.5
            nn.init.uniform_(self.queue.rows, -bound, bound)
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("images", torch.ones(()))

    def compare(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> list[Tensor]:
        """Tell each pair from the queue; in official mode, from one that already holds the keys of the pairs before."""
        terms = []
        for query, key in zip(queries, keys, strict=True):
            queue = self.queue.rows.clone() if self.official else self.queue.rows
            terms.append(self.contrast(query, key, queue))
            if self.official:
                self.queue.push(key)
        return terms

    def contrast(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Compute the cost of one pair [nat]; NCE fixes its Z at the very first call."""
        pair, heat = (query, key, queue), self.temperature
        if self.criterion == "softmax":
            return info_nce(*pair, heat)
        found = estimate_total(*pair, images=self.images, temperature=heat)
        first = found.floor().clamp(min=1) if self.official else found  # 0 would divide (ours)
        self.total.copy_(torch.where(self.total > 0, self.total, first))
        sizes = {"total": self.total, "images": self.images}
        return noise_contrast(*pair, **sizes, temperature=heat, eps=self.eps)

    def remember(self, keys: Tensor) -> None:
        """Push the keys of a step that has been done; in official mode `compare` has done so."""
        if not self.official:
            self.queue.push(keys)


def unit(rows: Tensor) -> Tensor:
    """Bring rows to length 1, in single precision."""
    return F.normalize(rows.float(), dim=1)


def find_again(query: Tensor, key: Tensor, number: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Find each query's image among the keys of a batch.

    Parameters
    ----------
    query, key
        Embeddings of two views, ``batch dim``, of unit length.
    number
        Tells images apart, ``batch``; a few held-out ones may take turns.

    Returns
    -------
    tuple
        The nearest key of each query, ``batch``, and the scores: ``retrieval``, the share whose nearest key is of the
        same image, and ``chance``, that of guessing.
    """
    nearest = (query @ key.T).argmax(1)
    same = number[:, None] == number
    scores = {
        "retrieval": same.gather(1, nearest[:, None]).float().mean(),
        "chance": same.float().mean(),
    }
    return nearest, scores
