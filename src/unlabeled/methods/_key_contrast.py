"""What C2L and PCRL share: pairs of views, one after the other, told from a queue of the teacher's earlier keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.losses.contrastive import estimate_total, info_nce, noise_contrast
from unlabeled.methods._base import SharedOptions
from unlabeled.nn.queue import Queue
from unlabeled.options import Between, Count, NonNegative, Positive, Probability, Whole

Criterion: TypeAlias = Literal["softmax", "nce"]


@dataclass(frozen=True, kw_only=True)
class PairOptions(SharedOptions):
    """Defaults of both official codes, where they agree.

    Parameters
    ----------
    features
        Length of an embedding.
    temperature
        Divides similarities.
    queue
        Earlier keys that a pair is told from.
    momentum
        Share of the teacher's weights that a step keeps.
    criterion
        NCE, or softmax over the pair and the queue.
    eps
        Of NCE.
    mixing
        Both parameters of the Beta distribution that weights of a mixture come from; 1 is uniform, 0.001 as good as no
        mixing.
    least_area
        Smallest area of a view over that of the picture.
    degrees
        Largest rotation [degree].
    brightness, contrast
        Largest change of each factor.
    p_flip
        Probability of mirroring left and right; 0 keeps the heart's side.
    holes
        Squares that are cut out of each view of a picture.
    hole_size
        Edges of these squares [pixel].
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    features: Count = 128
    temperature: Positive
    queue: Count = 16384
    momentum: Probability = 0.999
    criterion: Criterion
    eps: NonNegative = 1e-5
    mixing: Annotated[float, Between(0.001)] = 1.0
    least_area: Probability = 0.2
    degrees: NonNegative = 10.0
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    p_flip: Probability = 0.5
    holes: Whole = 3
    hole_size: Count = 32
    fidelity: Literal["clean", "official"] = "clean"


class KeyContrast(nn.Module):
    """A queue of earlier keys, and the cost of telling pairs from it.

    Parameters
    ----------
    options
        Say how many keys of which length it holds, and how pairs are told from them.  With official fidelity, a pair's
        keys are pushed before the next pair is compared, the first rows are uniform numbers, and Z of NCE is cut to a
        whole number, at least 1.

    Attributes
    ----------
    total
        Z of NCE; 0 before the first step.
    images
        How many there are to learn from, for NCE.
    """

    total: Tensor
    images: Tensor

    def __init__(self, options: PairOptions) -> None:
        super().__init__()
        self.criterion, self.official = options.criterion, options.fidelity == "official"
        self.temperature, self.eps = options.temperature, options.eps
        self.queue = Queue(options.queue, options.features)
        if self.official:
            bound = (3 / options.features) ** 0.5
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
