"""A comparison as a plan of cells: each a fine-tuning in a folder of its own; and what finished cells came to."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlabeled.benchmark.statistics import Score
from unlabeled.methods._registry import find
from unlabeled.training.given import complete
from unlabeled.training.log import RunFolder
from unlabeled.transfer.task import TaskName

SCRATCH = "scratch"
PARTS = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared with what.

    Parameters
    ----------
    scans
        Unlabelled scans to pretrain on.
    labelled
        Labelled scans to fine-tune and measure on.
    task
        A key of `TASKS`: ``segment``, ``classify``, ``regress``, ...
    methods
        Pretraining options by slug; training from scratch is always there.
    fractions
        Shares of the labelled training subjects up to 1, or numbers of subjects above 1.
    seeds
        Random starts of each cell; the test subjects stay the same.
    finetuning
        Options of every fine-tuning, the same for scratch.
    part
        Subjects that the figures are of: ``val`` while anything is still chosen, ``test`` once.
    settings
        How the runs use the machine.
    title
        What the comparison is about, in a few words; may be empty.
    """

    scans: Path
    labelled: Path
    task: TaskName
    methods: Mapping[str, Mapping[str, Any]]
    fractions: tuple[float, ...] = (1.0,)
    seeds: int = 3
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    part: str = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    @property
    def cells(self) -> Iterator[Cell]:
        """Every fine-tuning: scratch and each method, at every fraction, from every seed."""
        for fraction in self.fractions:
            for seed in range(self.seeds):
                for method in (SCRATCH, *self.methods):
                    yield Cell(method, fraction, seed)

    def scratch_like(self) -> dict[str, Any]:
        """Say of scratch's network what a pretraining's weights say of theirs, from the plan alone.

        Network and patch are those of the first method, unless `finetuning` names them; the intensity rule is that of
        most methods, the first of them where as many have another.
        """
        made = {
            slug: complete(find(slug).options_class, None, None, options)[0]
            for slug, options in self.methods.items()
        }
        slug, first = next(iter(made.items()))
        able = find(slug).needs.dims
        rules = Counter(find(each).intensity(options) for each, options in made.items())
        return {
            "encoder": first.encoder,
            "dims": first.dims or (able[0] if len(able) == 1 else None),
            "patch_size": list(first.patch_size),
            "intensity": rules.most_common(1)[0][0].as_metadata(),
            "options": {name: getattr(first, name) for name in first.names()},
        }


@dataclass(frozen=True)
class Cell:
    """One fine-tuning of a plan."""

    method: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return f"{self.method}-{show_fraction(self.fraction)}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Hours:
    """What training cost: hours of processor cores, and of graphics processors."""

    core: float = 0.0
    gpu: float = 0.0

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.core + other.core, self.gpu + other.gpu)

    def __truediv__(self, parts: float) -> Hours:
        return Hours(self.core / parts, self.gpu / parts)

    def __str__(self) -> str:
        """Write them for people.

        >>> str(Hours(core=1.234)), str(Hours(gpu=0.01)), str(Hours())
        ('1.23 core-hours', '0.010 GPU-hours', '0 core-hours')
        """
        told = [
            f"{value:.3g} {unit}" if value >= 0.1 else f"{value:.3f} {unit}"
            for value, unit in ((self.core, "core-hours"), (self.gpu, "GPU-hours"))
            if value
        ]
        return " and ".join(told) or "0 core-hours"


@dataclass(frozen=True, slots=True)
class Spent:
    """What one method cost: its pretraining, all its finished fine-tunings, and how many those are."""

    pretraining: Hours
    finetuning: Hours
    cells: int


@dataclass(frozen=True)
class Outcome:
    """What a plan came to.

    Parameters
    ----------
    rows
        Every measured subject (and class) of every finished cell: plain values.
    failed
        Message by the name of a pretraining or cell that could not be run.
    seconds
        Training time by method: pretraining, and all its fine-tunings.
    spent
        The same in hours of cores and graphics processors.
    """

    rows: tuple[dict[str, Any], ...]
    failed: dict[str, str]
    seconds: dict[str, dict[str, float]]
    spent: dict[str, Spent] = field(default_factory=dict)

    def scores(self, metric: str) -> list[Score]:
        """Average a metric over the classes of each subject: the rows of the statistics."""
        held: dict[tuple[str, float, int, str], list[float]] = {}
        for row in self.rows:
            place = (row["method"], row["fraction"], row["seed"], row["subject"])
            held.setdefault(place, []).append(float(row[metric]))
        return [
            Score(method, as_fraction(fraction), seed, subject, sum(values) / len(values))
            for (method, fraction, seed, subject), values in held.items()
        ]


def show_fraction(fraction: float) -> str:
    """Write a fraction for people: ``all``, ``5`` subjects, ``10%``.

    >>> show_fraction(1.0), show_fraction(5), show_fraction(0.1)
    ('all', '5', '10%')
    """
    if fraction == 1:
        return "all"
    return f"{fraction:g}" if fraction > 1 else f"{100 * fraction:g}%"


def as_fraction(fraction: float) -> float | int:
    """Tell a share (a float) from a number of subjects (an int)."""
    return int(fraction) if fraction > 1 else float(fraction)


def pretraining_of(slug: str) -> str:
    """Name the run folder of a method's pretraining."""
    return f"pretrain-{slug}"


def place_of(plan: Plan, cell: Cell, out: Path) -> Path:
    """Name the run folder of a cell: those measured on other subjects are other runs, the pretraining is the same."""
    return out / plan.part / cell.name


def collect(plan: Plan, out: Path, failed: Mapping[str, str] | None = None) -> Outcome:
    """Read the measured subjects of all finished cells.

    Parameters
    ----------
    plan
        What was compared.
    out
        Its folder.
    failed
        Messages of what could not be run; without it, those of ``failed.csv`` that are of this plan.
    """
    rows: list[dict[str, Any]] = []
    seconds: dict[str, dict[str, float]] = {}
    spent: dict[str, Spent] = {}
    for slug in (*plan.methods, SCRATCH):
        facts = {} if slug == SCRATCH else RunFolder(out / pretraining_of(slug)).read_facts()
        seconds[slug] = {"pretraining": float(facts.get("seconds", 0.0)), "fine-tuning": 0.0}
        spent[slug] = Spent(_hours(facts), Hours(), 0)
    for cell in plan.cells:
        run = place_of(plan, cell, out)
        facts = RunFolder(run).read_facts()
        if not facts.get("finished"):
            continue
        seconds[cell.method]["fine-tuning"] += float(facts.get("seconds", 0.0))
        so_far = spent[cell.method]
        spent[cell.method] = Spent(
            so_far.pretraining, so_far.finetuning + _hours(facts), so_far.cells + 1
        )
        for row in read_metrics(run, plan.part):
            about = {"method": cell.method, "fraction": cell.fraction, "seed": cell.seed}
            rows.append({**about, **row})
    if failed is None:
        own = {*map(pretraining_of, plan.methods), *(cell.name for cell in plan.cells)}
        failed = {name: fault for name, fault in read_failed(out).items() if name in own}
    return Outcome(tuple(rows), dict(failed), seconds, spent)


def read_metrics(run: Path, part: str) -> Sequence[dict[str, Any]]:
    """Read the rows of one part of ``metrics.csv``; a class that was right counts 1 as ``correct``."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [row for row in csv.DictReader(file) if row["split"] == part]
    for row in rows:
        if "predicted" in row and "truth" in row:
            row["correct"] = float(row["predicted"] == row["truth"])
    return rows


def read_failed(out: Path) -> dict[str, str]:
    """Read ``failed.csv``: messages by name of what could not be run."""
    try:
        with (out / "failed.csv").open(newline="", encoding="utf-8") as file:
            return {row["run"]: row["message"] for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


def _hours(facts: Mapping[str, Any]) -> Hours:
    """Count a run's cost: threads x hours on processors, devices x hours on others."""
    hours = float(facts.get("seconds", 0.0)) / 3600 * int(facts.get("devices", 1))
    if facts.get("accelerator", "cpu") == "cpu":
        return Hours(core=hours * int(facts.get("threads", 1)))
    return Hours(gpu=hours)
