"""What is known of methods by measurement: comparisons on real data, and small-scale proofs; no hand writes either file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One method against scratch, on one task with so many labels: a row of ``evidence.csv``.

    Parameters
    ----------
    slug
        The method.
    data, task, metric
        What was measured on what.
    label_fraction
        ``all``, a share (``10%``) or a number of subjects (``5``).
    scratch, pretrained
        Means over seeds and test subjects.
    difference, low, high
        Mean paired difference, and its 95 % interval over new seeds and new subjects.
    p_holm
        Corrected over all comparisons of the plan.
    finding
        ``gain``, ``harm`` or ``none``: no significant difference.
    seeds, subjects
        How many the means are over.
    plan, commit
        Where the plan and the state of the code are found.
    """

    slug: str
    data: str
    task: str
    metric: str
    label_fraction: str
    scratch: float
    pretrained: float
    difference: float
    low: float
    high: float
    p_holm: float
    finding: str
    seeds: int
    subjects: int
    plan: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One figure of a small-scale proof: a row of ``small-scale.csv``.

    Parameters
    ----------
    slug, data, figure, value
        What was measured on what.
    against
        The figure of the same data to read it against (chance, doing nothing); empty but for the one that is told first.
    test
        The test that prints it.
    """

    slug: str
    data: str
    figure: str
    value: float
    against: str
    test: str


@cache
def measured() -> dict[str, tuple[Measured, ...]]:
    """Read all comparisons, by slug."""
    found: dict[str, list[Measured]] = {}
    for row in _read("evidence.csv"):
        found.setdefault(row["slug"], []).append(
            Measured(
                slug=row["slug"],
                data=row["data"],
                task=row["task"],
                metric=row["metric"],
                label_fraction=row["label_fraction"],
                scratch=float(row["scratch"]),
                pretrained=float(row["pretrained"]),
                difference=float(row["difference"]),
                low=float(row["low"]),
                high=float(row["high"]),
                p_holm=float(row["p_holm"]),
                finding=row["finding"],
                seeds=int(row["seeds"]),
                subjects=int(row["subjects"]),
                plan=row["plan"],
                commit=row["commit"],
            )
        )
    return {slug: tuple(rows) for slug, rows in found.items()}


@cache
def proofs() -> dict[str, tuple[Proof, ...]]:
    """Read all figures of small-scale proofs, by slug."""
    found: dict[str, list[Proof]] = {}
    for row in _read("small-scale.csv"):
        found.setdefault(row["slug"], []).append(
            Proof(
                slug=row["slug"],
                data=row["data"],
                figure=row["figure"],
                value=float(row["value"]),
                against=row["against"],
                test=row["test"],
            )
        )
    return {slug: tuple(rows) for slug, rows in found.items()}


def tell_measured(rows: Sequence[Measured]) -> str:
    """Say in a few words what comparisons came to; empty where there is none.

    Every comparison counts, none is picked: ``gain in 1 of 8``, ``gain in 0, harm in 1 of 4``.
    """
    if not rows:
        return ""
    found = [row.finding for row in rows]
    harm = f", harm in {found.count('harm')}" if "harm" in found else ""
    return f"gain in {found.count('gain')}{harm} of {len(rows)}"


def tell_proofs(rows: Sequence[Proof]) -> tuple[str, ...]:
    """Say of each data set the figure that is told first, and what to read it against."""
    by_name: Mapping[tuple[str, str], float] = {(row.data, row.figure): row.value for row in rows}
    told = {row.data: "" for row in rows}
    for row in rows:
        if row.against:
            other = f"{_words(row.against)} {by_name[row.data, row.against]:.3g}"
            told[row.data] = f"{row.data}: {_words(row.figure)} {row.value:.3g}, {other}"
    return tuple(filter(None, told.values()))


def _words(figure: str) -> str:
    return figure.replace("_", " ")


def _read(name: str) -> list[dict[str, str]]:
    text = files("unlabeled").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
