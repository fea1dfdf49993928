"""Measures of a downstream task on whole subjects: overlap and distances of masks, ranking and counting of classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from unlabeled.rng import generator


@dataclass(frozen=True, slots=True)
class Overlap:
    """How well one class of one scan was found.

    Parameters
    ----------
    dice
        Overlap [0 to 1].
    hd95
        95th percentile of the distances between the two surfaces, the larger direction [mm, or voxel].
    nsd
        Share of the two surfaces that lies within the tolerance of the other [0 to 1].
    """

    dice: float
    hd95: float
    nsd: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A measure over subjects with its 95 % bootstrap interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.value != self.value:
            return "cannot be told here"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def overlap(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    tolerance: float = 1.0,
) -> Overlap:
    """Compare one class of a predicted mask with the truth: Dice, HD95 and NSD.

    Parameters
    ----------
    predicted, truth
        Where the class is, ``*space``.
    spacing
        Voxel edge lengths [mm]; without them distances are in voxels.
    tolerance
        Distance that counts as met [mm, or voxel]; for NSD.

    Notes
    -----
    Where both masks are empty there was nothing to find: every measure is NaN and left out of means.  Where one alone
    is empty, Dice and NSD are 0 and HD95 is the scan's diagonal, the worst that it could be, so that a missed class
    makes a mean worse and never disappears from it.  Surfaces by MONAI (``compute_hausdorff_distance``,
    ``compute_surface_dice``).

    >>> import numpy as np
    >>> found, there = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    >>> found[2:5, 2:5] = there[2:5, 3:6] = True
    >>> overlap(found, there, spacing=(1.0, 2.0), tolerance=2.0)          # one voxel aside: 2 mm
    Overlap(dice=0.6666666666666666, hd95=2.0, nsd=1.0)
    """
    edges = tuple(spacing) if spacing else (1.0,) * truth.ndim
    found, there = int(predicted.sum()), int(truth.sum())
    if not found and not there:
        return Overlap(math.nan, math.nan, math.nan)
    if not found or not there:
        diagonal = math.hypot(*(n * edge for n, edge in zip(truth.shape, edges, strict=True)))
        return Overlap(0.0, diagonal, 0.0)
    dice = 2 * int((predicted & truth).sum()) / (found + there)
    hd95, nsd = _surfaces(predicted, truth, edges, tolerance)
    return Overlap(dice, hd95, nsd)


def _surfaces(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    tolerance: float,
) -> tuple[float, float]:
    """Compute HD95 and NSD inside the box around both masks: distances need nothing outside it."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance  # seconds to import
    from monai.metrics.surface_dice import compute_surface_dice

    box = []
    for axis in range(truth.ndim):
        others = tuple(other for other in range(truth.ndim) if other != axis)
        held = np.flatnonzero(predicted.any(others) | truth.any(others))
        box.append(slice(max(int(held[0]) - 1, 0), int(held[-1]) + 2))
    found, there = (
        torch.from_numpy(np.ascontiguousarray(mask[tuple(box)]))[None, None]
        for mask in (predicted, truth)
    )
    edges = list(spacing)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # MONAI 1.6 calls its own deprecated argument
        hd95 = compute_hausdorff_distance(
            found, there, include_background=True, percentile=95.0, spacing=edges
        )
        nsd = compute_surface_dice(
            found, there, [tolerance], include_background=True, spacing=edges
        )
    return float(hd95), float(nsd)


def roc_auc(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Parameters
    ----------
    scores
        ``subject`` (of the positive class) or ``subject class`` (then: mean of one class against the rest).
    truth
        Class of each subject; for one column of scores, 0 or 1.

    Returns
    -------
    float
        NaN where positives or negatives are missing altogether; classes that are missing are left out of the mean.

    Notes
    -----
    Source: Mann and Whitney, Ann. Math. Stat. 1947; Hand and Till, Machine Learning 2001, for the mean.

    >>> import numpy as np
    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim == 2:
        if scores.shape[1] == 2:
            return roc_auc(scores[:, 1], truth)
        each = [roc_auc(scores[:, c], truth == c) for c in range(scores.shape[1])]
        told = [area for area in each if not math.isnan(area)]
        return float(np.mean(told)) if told else math.nan
    positive = truth.astype(bool)
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


def accuracy(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Share of subjects whose highest score is the true class."""
    return float((np.asarray(scores).argmax(1) == truth).mean()) if len(truth) else math.nan


def balanced_accuracy(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean over the classes that are there of the share found; chance is one over their number."""
    right = np.asarray(scores).argmax(1) == truth
    each = [right[truth == c].mean() for c in np.unique(truth)]
    return float(np.mean(each)) if each else math.nan


def bootstrap(
    measure: Callable[[NDArray[np.intp]], float],
    subjects: Sequence[str],
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """Give a measure its 95 % interval: subjects drawn with replacement, 2.5th and 97.5th percentile.

    Parameters
    ----------
    measure
        Computes the measure from row numbers (which may repeat); NaN results are left out.
    subjects
        Subject of each row; all rows of a subject are drawn together.
    seed
        Of the draws: the same seed gives the same interval.
    draws
        How many.

    Notes
    -----
    Source: Efron, Ann. Stat. 1979 (percentile interval), clusters by subject.
    """
    names = sorted(set(subjects))
    order = np.asarray(subjects)
    rows = [np.flatnonzero(order == name) for name in names]
    if not names:
        return Interval(math.nan, math.nan, math.nan)
    value = measure(np.arange(len(subjects)))
    rng = generator(seed, "bootstrap", len(names))
    drawn = torch.randint(len(names), (draws, len(names)), generator=rng).numpy()
    values = np.array([measure(np.concatenate([rows[one] for one in draw])) for draw in drawn])
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(value, math.nan, math.nan)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def mean_interval(values: Sequence[float], subjects: Sequence[str], *, seed: int = 0) -> Interval:
    """Give the mean of one value a row, NaN left out, with its interval over subjects.

    >>> mean_interval([1.0, 1.0, float("nan")], ["a", "b", "c"])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    table = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(table)
    kept, whose = table[there], [s for s, one in zip(subjects, there, strict=True) if one]
    return bootstrap(lambda rows: float(kept[rows].mean()), whose, seed=seed)
