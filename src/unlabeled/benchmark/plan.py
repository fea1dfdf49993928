"""A comparison as a plan of cells: each a fine-tuning in a folder of its own, done once, picked up where it stopped."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlabeled.benchmark.statistics import Score
from unlabeled.errors import DataError, UnlabeledError
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import pretrain
from unlabeled.training.state import Result
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.task import TaskName

SCRATCH = "scratch"


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
        ``segment``, ``classify`` or ``regress``.
    methods
        Pretraining options by slug; training from scratch is always there.
    fractions
        Shares of the labelled training subjects up to 1, or numbers of subjects above 1.
    seeds
        Random starts of each cell; the subjects stay the same.
    finetuning
        Options of every fine-tuning, the same for scratch.
    part
        Subjects that the figures are of: ``val`` while anything is still chosen, ``test`` once.
    settings
        How the runs use the machine.
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

    @property
    def cells(self) -> Iterator[Cell]:
        """Every fine-tuning: scratch and each method, at every fraction, from every seed."""
        for fraction in self.fractions:
            for seed in range(self.seeds):
                for method in (SCRATCH, *self.methods):
                    yield Cell(method, fraction, seed)


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


@dataclass(frozen=True)
class Outcome:
    """What a plan came to.

    Parameters
    ----------
    rows
        Every measured subject (and class) of every finished cell: plain values.
    failed
        Message by the name of a cell that could not be run.
    seconds
        Training time by method: pretraining, and all its fine-tunings.
    """

    rows: tuple[dict[str, Any], ...]
    failed: dict[str, str]
    seconds: dict[str, dict[str, float]]

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


def place_of(plan: Plan, cell: Cell, out: Path) -> Path:
    """Name the run folder of a cell: those measured on other subjects are other runs, the pretraining is the same."""
    return out / plan.part / cell.name


def run_plan(
    plan: Plan,
    out: Path,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Run what is missing of a plan, in this process, and collect everything.

    A cell that fails is named in the outcome and stops nothing; a pretraining that fails takes its cells with it.
    """
    failed: dict[str, str] = {}
    for slug, options in plan.methods.items():
        say(f"pretraining {slug}")
        try:
            _pretrain(plan, slug, options, out / f"pretrain-{slug}", cache)
        except UnlabeledError as fault:
            failed[f"pretrain-{slug}"] = str(fault)
    cells = list(plan.cells)
    like = next((s for s in plan.methods if f"pretrain-{s}" not in failed), None)
    if like is None:
        raise DataError("no pretraining succeeded: " + "; ".join(failed.values()))
    for number, cell in enumerate(cells, start=1):
        if f"pretrain-{cell.method}" in failed:
            continue
        say(f"fine-tuning {number} of {len(cells)}: {cell.name}")
        try:
            _finetune(plan, cell, out, out / f"pretrain-{like}", cache)
        except UnlabeledError as fault:
            failed[cell.name] = str(fault)
    return collect(plan, out, failed)


def collect(plan: Plan, out: Path, failed: Mapping[str, str] | None = None) -> Outcome:
    """Read the measured subjects of all finished cells."""
    rows: list[dict[str, Any]] = []
    seconds: dict[str, dict[str, float]] = {}
    for slug in plan.methods:
        spent = RunFolder(out / f"pretrain-{slug}").read_facts().get("seconds", 0.0)
        seconds[slug] = {"pretraining": float(spent), "fine-tuning": 0.0}
    seconds[SCRATCH] = {"pretraining": 0.0, "fine-tuning": 0.0}
    for cell in plan.cells:
        run = place_of(plan, cell, out)
        facts = RunFolder(run).read_facts()
        if not facts.get("finished"):
            continue
        seconds[cell.method]["fine-tuning"] += float(facts.get("seconds", 0.0))
        for row in read_metrics(run, plan.part):
            about = {"method": cell.method, "fraction": cell.fraction, "seed": cell.seed}
            rows.append({**about, **row})
    return Outcome(tuple(rows), dict(failed or {}), seconds)


def read_metrics(run: Path, part: str) -> Sequence[dict[str, Any]]:
    """Read the rows of one part of ``metrics.csv``; a class that was right counts 1 as ``correct``."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [row for row in csv.DictReader(file) if row["split"] == part]
    for row in rows:
        if "predicted" in row and "truth" in row:
            row["correct"] = float(row["predicted"] == row["truth"])
    return rows


def _pretrain(
    plan: Plan, slug: str, options: Mapping[str, Any], out: Path, cache: Path | None
) -> None:
    if not RunFolder(out).read_facts().get("finished"):
        resume = (out / "run.json").exists()
        given = {**plan.settings, "resume": resume}
        done = pretrain(slug, plan.scans, out, cache=cache, **options, **given)
        _heed(done.result)


def _finetune(plan: Plan, cell: Cell, out: Path, like: Path, cache: Path | None) -> None:
    run = place_of(plan, cell, out)
    if RunFolder(run).read_facts().get("finished"):
        return
    scratch = cell.method == SCRATCH
    done = finetune(
        plan.task,
        plan.labelled,
        run,
        init=SCRATCH if scratch else out / f"pretrain-{cell.method}",
        like=like if scratch else None,
        cache=cache,
        test=plan.part == "test",
        label_fraction=cell.fraction,
        seed=cell.seed,
        **plan.finetuning,
        **{**plan.settings, "resume": (run / "run.json").exists()},
    )
    _heed(done.result)


def _heed(result: Result) -> None:
    """Pass an interruption on: the cell has saved, and the plan ends."""
    if result.exit_reason == "interrupted":
        raise KeyboardInterrupt
