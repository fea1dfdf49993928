"""Divide subjects into parts and draw label fractions: by subject, the same for every method, stable as data grow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from unlabeled.data.layouts import listed
from unlabeled.data.scan import Source
from unlabeled.errors import DataError, OptionError
from unlabeled.rng import derive


def split_subjects(
    subjects: Iterable[str], shares: Mapping[str, float], seed: int
) -> dict[str, tuple[str, ...]]:
    """Divide subjects into parts of given shares.

    Subjects are ordered by a hash of (seed, subject) and cut: the result does not depend on their order, and adding
    subjects moves only those next to a cut.  Sizes differ from the exact shares by less than one, unless that would
    leave a part without any subject.

    Parameters
    ----------
    subjects
        Names; repeated ones count once.
    shares
        Share of each part; they sum to 1.
    seed
        Another seed, another division.

    Returns
    -------
    dict
        Subjects of each part, sorted.

    Raises
    ------
    OptionError
        When the shares are not positive or do not sum to 1.
    DataError
        When there are fewer subjects than parts.

    Examples
    --------
    >>> parts = split_subjects(["p1", "p2", "p3", "p4"], {"train": 0.75, "val": 0.25}, seed=0)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 3, 'val': 1}
    """
    if not shares or not all(0 < share <= 1 for share in shares.values()):
        raise OptionError(f"shares are {dict(shares)}, not all above 0 and at most 1", "")
    if not math.isclose(math.fsum(shares.values()), 1, abs_tol=1e-6):
        raise OptionError(
            f"shares sum to {math.fsum(shares.values()):g}, not to 1",
            "Name a share for every part.",
        )
    ordered = _ordered(subjects, seed, "split")
    if len(ordered) < len(shares):
        raise DataError(
            f"{len(ordered)} {'subject' if len(ordered) == 1 else 'subjects'} cannot be divided into "
            f"{len(shares)} parts ({', '.join(shares)})",
            "Add subjects; if several people were taken for one, give a manifest with a column `subject`.",
        )
    parts: dict[str, tuple[str, ...]] = {}
    start = 0
    for name, size in _sizes(len(ordered), shares).items():
        parts[name] = tuple(sorted(ordered[start : start + size]))
        start += size
    return parts


def take_fraction(subjects: Iterable[str], fraction: float | int, seed: int) -> tuple[str, ...]:
    """Draw a share, or a number, of the subjects; what a smaller one draws is among what a larger one draws.

    Parameters
    ----------
    subjects
        Names; repeated ones count once.
    fraction
        A whole number (``int``) of subjects, or a share (``float``) in (0, 1], at least one subject.
    seed
        Another seed, another draw.

    Raises
    ------
    OptionError
        When the fraction is outside its range.
    DataError
        When there are fewer subjects than asked for.

    Examples
    --------
    >>> few = take_fraction(["p1", "p2", "p3", "p4"], 2, seed=0)
    >>> set(few) <= set(take_fraction(["p1", "p2", "p3", "p4"], 0.75, seed=0))
    True
    """
    ordered = _ordered(subjects, seed, "fraction")
    if not ordered:
        raise DataError("there are no subjects to take a fraction of", "Give labelled scans.")
    if isinstance(fraction, int):
        if isinstance(fraction, bool) or fraction < 1:
            raise OptionError(
                f"the label fraction is {fraction}",
                "Give a share above 0, or a number of subjects.",
            )
        if fraction > len(ordered):
            raise DataError(
                f"{fraction} labelled subjects were asked for, and there are {len(ordered)}",
                f"Give a share, or a number up to {len(ordered)}.",
            )
        count = fraction
    else:
        if not 0 < fraction <= 1:
            raise OptionError(
                f"the label fraction is {fraction}", "Give a share above 0 and at most 1."
            )
        count = max(1, math.floor(fraction * len(ordered) + 0.5))
    return tuple(sorted(ordered[:count]))


def given_split(sources: Iterable[Source]) -> dict[str, tuple[str, ...]]:
    """Take the division that the data bring (column ``split``, folders train and test); empty when there is none.

    Scans without a split belong to no part.  A family counts as one subject.

    Raises
    ------
    DataError
        When a subject or a family has scans in two parts.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    belongs: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.split is not None:
            parts[source.split].add(source.subject)
            belongs[source.kin].add(source.split)
    straddling = sorted(kin for kin, named in belongs.items() if len(named) > 1)
    if straddling:
        count = len(straddling)
        raise DataError(
            f"{count} {'subject has' if count == 1 else 'subjects have'} scans in more than one split: "
            f"{listed(straddling)}",
            "Correct the column `split` (or the folders), or name the subjects apart in a manifest.",
        )
    return {name: tuple(sorted(parts[name])) for name in sorted(parts)}


def _ordered(subjects: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Order subjects by hash; the purpose keeps division and fractions independent of each other."""
    return sorted(set(subjects), key=lambda subject: (derive(seed, purpose, subject), subject))


def _sizes(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Round shares to whole numbers of subjects by largest remainder, at least one each."""
    exact = {name: share * total for name, share in shares.items()}
    sizes = {name: math.floor(size + 1e-9) for name, size in exact.items()}
    missing = total - sum(sizes.values())
    by_rest = sorted(exact, key=lambda name: (sizes[name] - exact[name], name))
    for name in by_rest[:missing]:
        sizes[name] += 1
    for name in sizes:
        if sizes[name] == 0:
            largest = max(sizes, key=lambda other: (sizes[other], other))
            sizes[largest] -= 1
            sizes[name] = 1
    return sizes
