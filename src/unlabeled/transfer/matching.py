"""Found objects against true ones: which of them are the same, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Matching:
    """How the objects of one scan were found.

    Parameters
    ----------
    matched
        Pairs of a found and a true object whose intersection is more than half of their union.
    found, true
        How many objects there are.
    seg
        Mean over true objects of their intersection over union with the found object that holds more than half of
        them, 0 where none does; NaN without true objects.
    """

    matched: int
    found: int
    true: int
    seg: float

    @property
    def precision(self) -> float:
        """Matched over all objects, ``TP / (TP + FP + FN)``; 1 where there was nothing to find, and nothing was.

        >>> Matching(3, 4, 4, 0.7).precision, Matching(0, 0, 0, float("nan")).precision
        (0.6, 1.0)
        """
        every = self.found + self.true - self.matched
        return self.matched / every if every else 1.0


def match_objects(found: NDArray[np.integer], truth: NDArray[np.integer]) -> Matching:
    """Match numbered objects, ``*space``; 0 is the background.

    An object can match but one other, as more than half of both is shared.

    Notes
    -----
    Average precision as in the VoidSeg code (Prakash et al., ISBI 2020); SEG as in the Cell Tracking Challenge (Maska
    et al., Bioinformatics 2014).

    >>> match_objects(np.array([1, 1, 1, 0]), np.array([5, 5, 5, 5]))
    Matching(matched=1, found=1, true=1, seg=0.75)
    """
    names, theirs = np.unique(truth, return_inverse=True)
    numbers, ours = np.unique(found, return_inverse=True)
    table = np.zeros((len(names), len(numbers)), np.int64)
    np.add.at(table, (theirs.reshape(-1), ours.reshape(-1)), 1)
    true_size, found_size = table.sum(1)[names != 0], table.sum(0)[numbers != 0]
    shared = table[np.ix_(names != 0, numbers != 0)]
    union = true_size[:, None] + found_size[None] - shared
    over = shared / np.maximum(union, 1)
    held = np.where(2 * shared > true_size[:, None], over, 0.0)
    seg = float(held.max(1, initial=0.0).mean()) if len(true_size) else math.nan
    return Matching(int((over > 0.5).sum()), len(found_size), len(true_size), seg)
