"""Is a method better than scratch, and how sure is that?  Means, intervals and paired tests over seeds and subjects.

A comparison trains every method once for each random start (*seed*) and tests it on the same *subjects*.  Both are samples:
other seeds and other subjects would have given other numbers.  The differences to scratch therefore form a table of
seeds x subjects with two crossed random effects, and everything here speaks about new seeds and new subjects at once.

Interval
    Crossed bootstrap: seeds and subjects are drawn with replacement, independently, and the mean is taken of the
    crossed table (Owen, Ann. Appl. Stat. 2007).  With a handful of seeds its percentiles are too narrow, so all
    deviations from the mean are stretched, never shrunk, until the interval is at least as wide as the t interval below.
p value
    The larger of two: (a) the sign-flip permutation test over subjects of the differences averaged over seeds, exact up to
    12 subjects; (b) the t test of the mean in the two-way random effects model, its variance
    (MS_seed + MS_subject - MS_rest) / (seeds * subjects) and never less than either factor alone, with Satterthwaite's
    degrees of freedom.  (a) does not lean on normality, (b) does not forget that few seeds were run.
Several comparisons
    Holm's correction over all comparisons with scratch of the plan.
Bounds
    An interval of a metric that has a range lies within it (Dice in [0, 1], a difference of two in [-1, 1]): the part outside
    is cut off, which loses no coverage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from unlabeled import rng as places
from unlabeled.errors import DataError

LEVEL = 0.95
_FLIPS = 10_000
_EXACT_SUBJECTS = 12
Fraction = float | int
UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True, slots=True)
class Score:
    """One row of a comparison: a metric of one test subject, under one trained network.

    Parameters
    ----------
    method
        Slug, or the baseline's name.
    label_fraction
        Share of the labelled subjects (a float), or their number (an int).
    seed
        Random start.
    subject
        Pseudonym of the test subject.
    value
        The metric, finite.
    """

    method: str
    label_fraction: Fraction
    seed: int
    subject: str
    value: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference to the baseline; `p_holm` is corrected over the whole plan."""

    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One method at one label fraction; `difference` is None for the baseline."""

    method: str
    label_fraction: Fraction
    seeds: int
    subjects: int
    score: Interval
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All cells of a plan, in the order of first appearance of methods, then by label fraction."""

    metric: str
    baseline: str
    higher_is_better: bool
    cells: tuple[Cell, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method once, the baseline first."""
        found = dict.fromkeys([self.baseline, *(cell.method for cell in self.cells)])
        return tuple(found)

    @property
    def label_fractions(self) -> tuple[Fraction, ...]:
        """Every label fraction once, in rising order."""
        return tuple(sorted({cell.label_fraction for cell in self.cells}))

    def cell(self, method: str, label_fraction: Fraction) -> Cell | None:
        """Find one cell."""
        wanted = (method, label_fraction)
        return next((c for c in self.cells if (c.method, c.label_fraction) == wanted), None)


def compare_scores(
    scores: Iterable[Score],
    *,
    metric: str = "Dice",
    baseline: str = "scratch",
    higher_is_better: bool = True,
    bounds: tuple[float, float] = UNBOUNDED,
    resamples: int = 4000,
    seed: int = 0,
) -> Comparison:
    """Compare every method with the baseline at every label fraction.

    Parameters
    ----------
    scores
        One row for each method, label fraction, seed and subject.
    metric
        Name of the metric, for the texts.
    baseline
        The method that all others are compared with.
    higher_is_better
        Whether more of the metric is good.
    bounds
        Least and largest value that the metric can have.
    resamples
        Bootstrap samples.
    seed
        Random start of bootstrap and permutation.

    Returns
    -------
    Comparison
        Means, intervals and corrected p values.

    Raises
    ------
    DataError
        When a row is doubled or not finite, a table has gaps, or seeds or subjects differ from the baseline's.
    """
    tables = _tables(scores)
    methods = list(dict.fromkeys(method for method, _ in tables))
    methods.sort(key=lambda method: method != baseline)
    cells = []
    for method in methods:
        for fraction in sorted(fraction for name, fraction in tables if name == method):
            seeds, subjects, values = tables[method, fraction]
            drawn = places.derive(seed, "bootstrap", str(fraction))
            score = within(crossed_interval(values, resamples=resamples, seed=drawn), bounds)
            cell = Cell(method, fraction, len(seeds), len(subjects), score)
            if method != baseline and (baseline, fraction) in tables:
                same = tables[baseline, fraction]
                if (seeds, subjects) != same[:2]:
                    raise DataError(
                        f"{method} at label fraction {fraction} was not run with the seeds and test subjects of {baseline}",
                        "Run both with the same --seeds and the same test subjects, so that they can be paired.",
                    )
                paired = values - same[2]
                found = crossed_interval(paired, resamples=resamples, seed=drawn)
                interval = within(found, (bounds[0] - bounds[1], bounds[1] - bounds[0]))
                p = p_value(paired, seed=drawn)
                cell = replace(cell, difference=Difference(interval, p, p))
            cells.append(cell)
    corrected = iter(holm([cell.difference.p for cell in cells if cell.difference]))
    whole = tuple(
        replace(cell, difference=replace(cell.difference, p_holm=next(corrected)))
        if cell.difference
        else cell
        for cell in cells
    )
    return Comparison(metric, baseline, higher_is_better, whole)


def crossed_interval(
    values: NDArray[np.float64], *, resamples: int = 4000, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Find the mean of a table ``(seed, subject)`` and its interval over new seeds and new subjects.

    Parameters
    ----------
    values
        One row a seed, one column a subject.
    resamples
        Bootstrap samples.
    seed
        Random start.
    level
        Coverage.

    Returns
    -------
    Interval
        As the module says; one subject alone gives an interval without bounds (infinite).
    """
    mean = float(values.mean())
    rows, columns = values.shape
    if columns < 2:
        return Interval(mean, -np.inf, np.inf)
    rng = np.random.default_rng(seed)
    row_weights = rng.multinomial(rows, np.full(rows, 1 / rows), resamples) / rows
    column_weights = rng.multinomial(columns, np.full(columns, 1 / columns), resamples) / columns
    deviations = np.einsum("br,rc,bc->b", row_weights, values - mean, column_weights, optimize=True)
    tails = (1 - level) / 2
    low, high = np.quantile(deviations, [tails, 1 - tails])
    error, freedom = standard_error(values)
    wanted = error * -stdtrit(freedom, tails)
    half = (high - low) / 2
    stretch = max(1.0, float(wanted / half)) if half > 0 else 1.0
    return Interval(
        mean, mean + min(0.0, stretch * float(low)), mean + max(0.0, stretch * float(high))
    )


def within(interval: Interval, bounds: tuple[float, float]) -> Interval:
    """Cut off what of an interval lies outside the range that its mean can have.

    >>> within(Interval(0.9, 0.7, 1.1), (0.0, 1.0))
    Interval(mean=0.9, low=0.7, high=1.0)
    """
    low, high = bounds
    return Interval(interval.mean, max(interval.low, low), min(interval.high, high))


def standard_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Find the standard error of the mean of a crossed table, and its degrees of freedom.

    Parameters
    ----------
    values
        ``(seed, subject)``, at least two subjects.

    Returns
    -------
    tuple[float, float]
        For one seed, the ordinary standard error over subjects, which says nothing about other seeds.

    >>> error, freedom = standard_error(np.array([[1.0, 2.0, 3.0]]))
    >>> round(error, 4), freedom          # 1 / sqrt(3)
    (0.5774, 2.0)
    """
    rows, columns = values.shape
    by_row, by_column = values.mean(axis=1), values.mean(axis=0)
    of_columns = rows * by_column.var(ddof=1)
    if rows == 1:
        return float(np.sqrt(of_columns / columns)), float(columns - 1)
    of_rows = columns * by_row.var(ddof=1)
    rest = values - by_row[:, None] - by_column[None, :] + values.mean()
    of_rest = (rest**2).sum() / ((rows - 1) * (columns - 1))
    crossed = of_rows + of_columns - of_rest
    candidates = [(of_rows, rows - 1.0), (of_columns, columns - 1.0)]
    if crossed > 0:
        parts = of_rows**2 / (rows - 1) + of_columns**2 / (columns - 1)
        parts += of_rest**2 / ((rows - 1) * (columns - 1))
        candidates.append((crossed, float(crossed**2 / parts)))
    largest, freedom = max(candidates, key=lambda pair: pair[0])
    return float(np.sqrt(largest / values.size)), freedom


def p_value(differences: NDArray[np.float64], *, seed: int = 0) -> float:
    """Test whether paired differences ``(seed, subject)`` have mean 0, two-sided, as the module says.

    One subject gives 1: nothing can be said.
    """
    if differences.shape[1] < 2:
        return 1.0
    error, freedom = standard_error(differences)
    mean = abs(float(differences.mean()))
    if mean == 0.0:
        return 1.0
    by_t = float(2 * stdtr(freedom, -mean / error)) if error > 0 else 0.0
    return max(by_t, flip_test(differences.mean(axis=0), seed=seed))


def flip_test(differences: NDArray[np.float64], *, seed: int = 0) -> float:
    """Test whether differences of subjects are symmetric about 0 by flipping their signs, two-sided.

    Exact over all flips up to 12 subjects; beyond, over 10 000 random ones and the observed.

    >>> flip_test(np.array([1.0, 2.0, 3.0]))      # only +++ and --- of 8 are as extreme
    0.25
    """
    count = len(differences)
    observed = abs(float(differences.mean())) * (1 - 1e-12)
    if count <= _EXACT_SUBJECTS:
        flips = np.arange(2**count)[:, None] >> np.arange(count)
        signs = 1.0 - 2.0 * (flips & 1)
        return float(np.mean(np.abs(signs @ differences) / count >= observed))
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, (_FLIPS, count)) * 2.0 - 1.0
    extreme = int(np.sum(np.abs(signs @ differences) / count >= observed))
    return (extreme + 1) / (_FLIPS + 1)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p values for their number (Holm, Scand. J. Stat. 1979).

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    corrected = [0.0] * len(p_values)
    so_far = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = so_far
    return tuple(corrected)


def _tables(
    scores: Iterable[Score],
) -> dict[tuple[str, Fraction], tuple[tuple[int, ...], tuple[str, ...], NDArray[np.float64]]]:
    """Arrange rows as one complete table ``(seed, subject)`` for each method and label fraction."""
    found: dict[tuple[str, Fraction], dict[tuple[int, str], float]] = {}
    for row in scores:
        place = f"{row.method} at label fraction {row.label_fraction}, seed {row.seed}, subject {row.subject}"
        if not np.isfinite(row.value):
            raise DataError(
                f"the score of {place} is {row.value}",
                "Give a finite score for every test subject, a penalty where the metric is undefined.",
            )
        table = found.setdefault((row.method, row.label_fraction), {})
        if (row.seed, row.subject) in table:
            raise DataError(f"{place} is there twice", "Leave one of the rows out.")
        table[row.seed, row.subject] = row.value
    if not found:
        raise DataError("there is no score to compare", "Run at least one method and scratch.")
    tables = {}
    for (method, fraction), table in found.items():
        seeds = tuple(sorted({seed for seed, _ in table}))
        subjects = tuple(sorted({subject for _, subject in table}))
        gaps = [(s, subject) for s in seeds for subject in subjects if (s, subject) not in table]
        if gaps:
            raise DataError(
                f"{method} at label fraction {fraction} lacks {len(gaps)} of {len(seeds) * len(subjects)} scores, "
                f"the first for seed {gaps[0][0]} and subject {gaps[0][1]}",
                "Let the comparison run to its end: the same command goes on where it stopped.",
            )
        values = np.array([[table[s, subject] for subject in subjects] for s in seeds])
        tables[method, fraction] = (seeds, subjects, values)
    return tables
