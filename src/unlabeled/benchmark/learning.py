"""Learning curves of a comparison: losses and pretext scores of each pretraining, validation scores of fine-tunings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.benchmark.charts import Curve, Series, colour_of
from unlabeled.benchmark.plan import SCRATCH, Cell, Plan, as_fraction, place_of
from unlabeled.benchmark.verdict import fraction_text
from unlabeled.methods._registry import find
from unlabeled.training.log import RunFolder

Points = list[tuple[float, float]]
MOST = 240  # points of a line: more cannot be told apart on a page


def curves_of(plan: Plan, out: Path, names: Mapping[str, str]) -> tuple[Curve, ...]:
    """Draw loss and pretext score of each pretraining, and the validation score of the fine-tunings.

    Parameters
    ----------
    plan, out
        What was compared, and where.
    names
        Names of methods by slug.
    """
    colours = colour_of((SCRATCH, *plan.methods))
    curves = []
    for slug in plan.methods:
        called = names.get(slug, slug)
        rows = log_rows(out / f"pretrain-{slug}")
        main = ("loss",) if any("loss" in row for row in rows) else loss_names(rows)[:1]
        curves += loss_curves(rows, called, colours[slug], names=main)
        curves += score_curves(rows, called, slug, colours[slug])
    what = held_out_name(plan, out)
    for fraction in plan.fractions:
        lines = []
        for method in (SCRATCH, *plan.methods):
            runs = [place_of(plan, Cell(method, fraction, seed), out) for seed in range(plan.seeds)]
            found = [points for run in runs if (points := held_out(log_rows(run))[1])]
            if found:
                lines.append(_over_seeds(names.get(method, method), method, found, colours[method]))
        if lines:
            curves.append(
                Curve(
                    f"Fine-tuning, {fraction_text(as_fraction(fraction))}",
                    "step",
                    f"{what} of validation patches".strip(),
                    tuple(lines),
                    "Mean over random starts; the band spans all of them. Measured on patches between rounds, "
                    "so not comparable with the scores of whole scans.",
                )
            )
    return tuple(curves)


def log_rows(run: Path) -> list[dict[str, Any]]:
    """Read the log of a run, also of one that is writing a line at this moment."""
    path = RunFolder(run).log_path
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and "phase" in row]


def loss_names(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name everything that is logged of the training's losses: they come before the learning rate."""
    names: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if name == "lr" or name.startswith("lr "):
                break
            if name not in ("phase", "epoch", "step", "total") and isinstance(value, float | int):
                names[name] = None
    return tuple(names)


def loss_curves(
    rows: Sequence[Mapping[str, Any]], called: str, colour: int, *, names: Sequence[str] = ("loss",)
) -> list[Curve]:
    """Draw training losses, one chart a name and phase; `called` stands before each title."""
    curves = []
    for name, phase in dict.fromkeys((n, row["phase"]) for n in names for row in rows if n in row):
        points = points_of([row for row in rows if row["phase"] == phase], name)
        title = _titled(called, f"training {name}", phase)
        curves.append(Curve(title, "step", name, (series_of("training", points, colour),)))
    return curves


def score_curves(
    rows: Sequence[Mapping[str, Any]], called: str, slug: str, colour: int
) -> list[Curve]:
    """Draw the monitored pretext score of held-out subjects, with what guessing would give."""
    monitor = find(slug).monitor
    curves = []
    for phase in dict.fromkeys(row["phase"] for row in rows if "held_out" in row):
        there = [row for row in rows_with_steps(rows) if row["phase"] == phase]
        name, guessing, note = monitor.name, monitor.chance or "", ""
        if any(name in row["held_out"] for row in there):
            note = f"{'Higher' if monitor.better == 'higher' else 'Lower'} is better."
        else:  # a phase that is scored in its own way
            names = list(dict.fromkeys(name for row in there for name in row["held_out"]))
            name = next(iter(names), "")
            guessing = next((each for each in names if "chance" in each), "")
        points, chance = _named(there, name), _named(there, guessing)
        if not points:
            continue
        lines = [series_of("held-out scans", points, colour)]
        if chance:
            lines.append(series_of(f"{guessing.replace('_', ' ')} (knowing nothing)", chance, 0))
        title = _titled(called, "pretext score", phase)
        curves.append(Curve(title, "step", name.replace("_", " "), tuple(lines), note))
    return curves


def _titled(called: str, what: str, phase: str) -> str:
    """Write a chart's title: whose it is, what it shows, and the phase where that says anything.

    >>> _titled("c2l", "training loss", "pretrain"), _titled("", "training loss", "local")
    ('c2l: training loss', 'Training loss, local')
    """
    title = f"{called}: {what}" if called else what.capitalize()
    return title if phase in ("pretrain", "finetune") else f"{title}, {phase}"


def rows_with_steps(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the scored rows of a log, each with the step of the line before it."""
    step, found = 0.0, []
    for row in rows:
        step = float(row.get("total", step))
        if "held_out" in row:
            found.append({**row, "total": step})
    return found


def held_out(rows: Sequence[Mapping[str, Any]]) -> tuple[str, Points]:
    """Find the validation score of a fine-tuning by step, and its name."""
    there = rows_with_steps(rows)
    first: Mapping[str, Any] = there[0]["held_out"] if there else {}
    preferred = ("dice", "accuracy", "average precision", "error")
    name = next((n for n in preferred if n in first), next(iter(first), ""))
    return name, _named(there, name)


def held_out_name(plan: Plan, out: Path) -> str:
    """Name the validation score of a plan's fine-tunings."""
    for cell in plan.cells:
        name, points = held_out(log_rows(place_of(plan, cell, out)))
        if points:
            return {"dice": "Dice"}.get(name, name)
    return ""


def thinned(points: Points) -> Points:
    """Keep no more points than can be told apart, the last among them."""
    step = max(1, -(-len(points) // MOST))
    kept = points[::step]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _named(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    found = [(row["total"], row["held_out"].get(name)) for row in rows]
    return [(float(x), float(y)) for x, y in found if y is not None and math.isfinite(float(y))]


def points_of(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Give a logged value by step, where it is finite."""
    found = [(float(row["total"]), float(row[name])) for row in rows if name in row]
    return [(x, y) for x, y in found if math.isfinite(y)]


def series_of(name: str, points: Points, colour: int) -> Series:
    """Make a line of points, thinned out."""
    kept = thinned(points)
    xs, ys = zip(*kept, strict=True) if kept else ((), ())
    return Series(name, tuple(xs), tuple(ys), colour=colour)


def _over_seeds(name: str, method: str, found: Sequence[Points], colour: int) -> Series:
    """Average curves over random starts, step by step, with the range that they span."""
    by_step: dict[float, list[float]] = {}
    for points in found:
        for x, y in points:
            by_step.setdefault(x, []).append(y)
    whole = sorted((x, ys) for x, ys in by_step.items() if len(ys) == len(found))
    xs = tuple(x for x, _ in whole)
    means = tuple(float(np.mean(ys)) for _, ys in whole)
    if len(found) == 1:
        return Series(name, xs, means, colour=colour, method=method)
    low, high = (tuple(float(end(ys)) for _, ys in whole) for end in (min, max))
    return Series(name, xs, means, low, high, colour, method)
