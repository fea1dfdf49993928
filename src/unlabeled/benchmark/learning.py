"""Learning curves of a comparison: losses and pretext scores of each pretraining, validation scores of fine-tunings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        rows = RunFolder(out / f"pretrain-{slug}").read_log()
        curves += loss_curves(rows, called, colours[slug])
        curves += score_curves(rows, called, slug, colours[slug])
    what = held_out_name(plan, out)
    for fraction in plan.fractions:
        lines = []
        for method in (SCRATCH, *plan.methods):
            runs = [place_of(plan, Cell(method, fraction, seed), out) for seed in range(plan.seeds)]
            found = [points for run in runs if (points := held_out(RunFolder(run).read_log())[1])]
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


def loss_curves(rows: Sequence[Mapping[str, Any]], called: str, colour: int) -> list[Curve]:
    """Draw the training loss, one chart a phase."""
    curves = []
    for phase in dict.fromkeys(row["phase"] for row in rows if "loss" in row):
        points = [
            (float(row["total"]), float(row["loss"]))
            for row in rows
            if row["phase"] == phase and "loss" in row
        ]
        title = f"{called}: training loss" + (
            "" if phase in ("pretrain", "finetune") else f", {phase}"
        )
        curves.append(Curve(title, "step", "loss", (_series("training", points, colour),)))
    return curves


def score_curves(
    rows: Sequence[Mapping[str, Any]], called: str, slug: str, colour: int
) -> list[Curve]:
    """Draw the monitored pretext score of held-out subjects, with what guessing would give."""
    monitor = find(slug).monitor
    curves = []
    for phase in dict.fromkeys(row["phase"] for row in rows if "held_out" in row):
        there = [row for row in rows_with_steps(rows) if row["phase"] == phase]
        points = _named(there, monitor.name)
        if not points:
            continue
        lines = [_series("held-out scans", points, colour)]
        chance = _named(there, monitor.chance or "")
        if chance:
            lines.append(_series(f"{monitor.chance} (knowing nothing)", chance, 0))
        title = f"{called}: pretext score" + ("" if phase == "pretrain" else f", {phase}")
        note = f"{'Higher' if monitor.better == 'higher' else 'Lower'} is better."
        curves.append(Curve(title, "step", monitor.name.replace("_", " "), tuple(lines), note))
    return curves


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
        name, points = held_out(RunFolder(place_of(plan, cell, out)).read_log())
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


def _series(name: str, points: Points, colour: int) -> Series:
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
