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
    names, true_size = np.unique(truth[truth != 0], return_counts=True)
    numbers, found_size = np.unique(found[found != 0], return_counts=True)
    both = (truth != 0) & (found != 0)
    rows, columns = np.searchsorted(names, truth[both]), np.searchsorted(numbers, found[both])
    pairs, shared = np.unique(rows * len(numbers) + columns, return_counts=True)  # few of all
    rows, columns = np.divmod(pairs, max(1, len(numbers)))
    over = shared / (true_size[rows] + found_size[columns] - shared)
    held = 2 * shared > true_size[rows]  # by one found object, at most
    seg = float(over[held].sum() / len(names)) if len(names) else math.nan
    return Matching(int((over > 0.5).sum()), len(numbers), len(names), seg)
