"""What each task is measured by, and the comparisons of a plan: one for every measure, whole and class by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from unlabeled.benchmark.plan import Outcome, as_fraction
from unlabeled.benchmark.statistics import Comparison, Fraction, Score, compare_scores
from unlabeled.transfer.task import TaskName


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of a task.

    Parameters
    ----------
    column
        Its name in ``metrics.csv``.
    title
        Its name for people.
    higher_is_better
        Whether more of it is good.
    unit
        Of its values; empty for shares.
    about
        What it is, in a few words for people who do not know it.
    bounds
        Least and largest value that it can have.
    """

    column: str
    title: str
    higher_is_better: bool = True
    unit: str = ""
    about: str = ""
    bounds: tuple[float, float] = (0.0, 1.0)


_FROM_0 = (0.0, math.inf)
_MASKS = (
    Measure("dice", "Dice", about="overlap of prediction and truth, 0 to 1"),
    Measure(
        "nsd", "NSD", about="share of the surface that lies within the tolerance of the true one"
    ),
    Measure(
        "hd95",
        "HD95",
        False,
        "mm",
        "95th percentile of the distance between the surfaces",
        _FROM_0,
    ),
)
_CLASSES = (Measure("correct", "accuracy", about="share of scans whose class is right"),)

#: The measures of each task; the verdict is about the first.
MEASURES: Mapping[TaskName, tuple[Measure, ...]] = MappingProxyType(
    {
        "segment": _MASKS,
        "few-shot": _MASKS,
        "label-transfer": _MASKS,
        "multi-task": _MASKS,
        "instances": (
            Measure(
                "average precision",
                "average precision",
                about="objects found, of those found or missed",
            ),
            Measure("seg", "SEG", about="mean overlap of each true object with its match"),
        ),
        "classify": _CLASSES,
        "zero-shot": _CLASSES,
        "localise": (
            Measure(
                "error mm",
                "slice error",
                False,
                "mm",
                "distance of a slice's estimated place from its true one",
                _FROM_0,
            ),
        ),
        "regress": (
            Measure(
                "absolute error",
                "absolute error",
                False,
                about="distance of the estimate to truth",
                bounds=_FROM_0,
            ),
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure's comparison.

    Parameters
    ----------
    measure
        What was measured.
    of
        The class that it is about; empty for all of them together.
    comparison
        Means, intervals, differences to scratch.
    left_out
        Test subjects without a value in some cell (a class that a subject does not have): in no figure of this one.
    """

    measure: Measure
    of: str
    comparison: Comparison
    left_out: int = 0


def compare_measures(
    task: TaskName, outcome: Outcome, *, seed: int = 0, unit: str = ""
) -> tuple[Measured, ...]:
    """Compare by every measure of a task that was written: all classes together first, then each.

    Parameters
    ----------
    task
        What the cells were fine-tuned for.
    outcome
        From `run_plan` or `collect`.
    seed
        Random start of bootstrap and permutation.
    unit
        Of distances, where it is not the measure's own (``voxel`` for scans without spacing).

    Returns
    -------
    tuple[Measured, ...]
        The main measure first; empty where no cell has been measured.
    """
    found = []
    named = _classes(outcome.rows)
    for measure in MEASURES[task]:
        if not any(measure.column in row for row in outcome.rows):
            continue
        shown = replace(measure, unit=(unit or measure.unit) if measure.unit else "")
        for of in ("", *(named if len(named) > 1 else ())):
            scores = scores_of(outcome.rows, measure.column, of)
            kept, left_out = complete_scores(scores)
            if kept:
                comparison = compare_scores(
                    kept,
                    metric=measure.title,
                    higher_is_better=measure.higher_is_better,
                    bounds=measure.bounds,
                    seed=seed,
                )
                found.append(Measured(shown, of, comparison, left_out))
    return tuple(found)


def scores_of(rows: Iterable[Mapping[str, Any]], column: str, of: str = "") -> list[Score]:
    """Average a column over the scans and classes of each subject; values that are not there are left out.

    Parameters
    ----------
    rows
        Of an outcome.
    column
        The measure.
    of
        A class: rows of the mask's class, or of scans that are truly of it; empty for all.
    """
    held: dict[tuple[str, float, int, str], list[float]] = {}
    for row in rows:
        if of and of != _class_of(row):
            continue
        value = _number(row.get(column, ""))
        if math.isfinite(value):
            place = (row["method"], row["fraction"], row["seed"], row["subject"])
            held.setdefault(place, []).append(value)
    return [
        Score(method, as_fraction(fraction), seed, subject, sum(values) / len(values))
        for (method, fraction, seed, subject), values in held.items()
    ]


def complete_scores(scores: Sequence[Score]) -> tuple[list[Score], int]:
    """Keep, at each label fraction, the seeds and subjects that every method there has, so that all can be paired.

    Returns
    -------
    tuple[list[Score], int]
        The scores kept, and the most subjects left out at one label fraction.
    """
    by_fraction: dict[Fraction, list[Score]] = {}
    for score in scores:
        by_fraction.setdefault(score.label_fraction, []).append(score)
    kept: list[Score] = []
    most = 0
    for there in by_fraction.values():
        seeds = _common({(s.method, s.seed) for s in there})
        cells = {(s.method, s.seed) for s in there if s.seed in seeds}
        met = {(cell, s.subject) for s in there if (cell := (s.method, s.seed)) in cells}
        subjects = _common(met)
        most = max(most, len({s.subject for s in there}) - len(subjects))
        kept += [s for s in there if s.seed in seeds and s.subject in subjects]
    return kept, most


def _common(pairs: set[tuple[Any, Any]]) -> set[Any]:
    """Find the second members that every first member has."""
    held: dict[Any, set[Any]] = {}
    for first, second in pairs:
        held.setdefault(first, set()).add(second)
    return set.intersection(*held.values()) if held else set()


def _classes(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name the classes that a measure can be split by, in order of appearance."""
    return tuple(dict.fromkeys(name for row in rows if (name := _class_of(row))))


def _class_of(row: Mapping[str, Any]) -> str:
    """Name the class that a row is about: of a mask, or the true one of a scan that is classified."""
    if "class" in row:
        return str(row["class"])
    return str(row["truth"]) if any(name.startswith("p ") for name in row) else ""


def _number(value: Any) -> float:
    return float(value) if value not in ("", None) else math.nan
