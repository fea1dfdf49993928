"""The figures of a comparison as files: ``scores.csv``, one row a cell and subject, and ``table.md``, the verdict first."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unlabeled.benchmark.plan import SCRATCH, Outcome, Plan, as_fraction, show_fraction
from unlabeled.benchmark.statistics import Cell, Comparison, Interval
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.facts import cpu_name
from unlabeled.transfer.metrics import roc_auc

SCORES, TABLE = "scores.csv", "table.md"
_PLACE = ("method", "fraction", "seed", "subject")


def write_scores(path: Path, outcome: Outcome, keep: Sequence[str] | None = None) -> Path:
    """Write every measured subject (and class) of every finished cell.

    Parameters
    ----------
    path
        The file.
    outcome
        What was measured.
    keep
        Columns beside method, fraction, seed and subject; all that there are by default.
    """
    found = dict.fromkeys(name for row in outcome.rows for name in row)
    names = keep or [name for name in found if name not in (*_PLACE, "split")]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*_PLACE, *names], extrasaction="ignore", restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(outcome.rows)
    write_atomically(path, text.getvalue().encode())
    return path


def rows_of(comparison: Comparison, plan: Plan) -> list[tuple[str, Cell]]:
    """Arrange the cells as tables show them: by label fraction in the plan's order, scratch first."""
    labels = {as_fraction(value): show_fraction(value) for value in plan.fractions}
    order = list(labels)
    ordered = sorted(comparison.cells, key=lambda cell: order.index(cell.label_fraction))
    return [(labels[cell.label_fraction], cell) for cell in ordered]


def write_interval(interval: Interval, *, sign: bool = False) -> str:
    """Write a mean with its interval.

    >>> write_interval(Interval(0.5, 0.25, 1.0)), write_interval(Interval(0.5, 0.25, 1.0), sign=True)
    ('0.500 (0.250 to 1.000)', '+0.500 (+0.250 to +1.000)')
    """
    mean, low, high = (
        f"{value:+.3f}" if sign else f"{value:.3f}"
        for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} ({low} to {high})"


def markdown_table(
    plan: Plan,
    outcome: Outcome,
    comparison: Comparison | None,
    *,
    title: str,
    verdict: str,
    source: str,
) -> str:
    """Write the figures as Markdown: verdict, table, AUC of two classes, costs, what failed.

    Parameters
    ----------
    plan, outcome, comparison
        What was compared, what it came to, and its statistics; None where nothing was measured.
    title, verdict
        Heading, and the outcome in a sentence.
    source
        What made these figures: a command, a commit.
    """
    lines = [f"# {title}", "", f"**{verdict}**", ""]
    if comparison is not None:
        lines += [
            f"| labelled subjects | method | {comparison.metric} (95 % interval) "
            "| difference to scratch (95 % interval) | p (Holm) |",
            "|---|---|---|---|---|",
        ]
        for label, cell in rows_of(comparison, plan):
            against = ["", ""]
            if cell.difference is not None:
                gap = write_interval(cell.difference.interval, sign=True)
                against = [gap, f"{cell.difference.p_holm:.2g}"]
            shown = [label, cell.method, write_interval(cell.score), *against]
            lines.append("| " + " | ".join(shown) + " |")
        first = comparison.cells[0]
        lines += [
            "",
            f"{first.subjects} {plan.part} subjects, {first.seeds} seeds a cell; each cell's intervals over "
            + (
                "new seeds and new subjects"
                if plan.seeds > 1
                else "new subjects, not over new trainings"
            )
            + ", of one pretraining a method.",
            "",
        ]
    lines += [f"Cost: {'; '.join(tell_costs(outcome))}, on {cpu_name()}.", "", source, ""]
    if plan.task == "classify" and outcome.rows:
        lines += [auc_table(outcome, plan)]
    if outcome.failed:
        lines += ["Not done:", ""]
        lines += [f"- {name}: {fault.splitlines()[0]}" for name, fault in outcome.failed.items()]
        lines += [""]
    return "\n".join(lines)


def tell_costs(outcome: Outcome) -> list[str]:
    """Say what each method cost: its pretraining once, and one of its fine-tunings."""
    told = []
    for method, spent in outcome.spent.items():
        one = spent.finetuning / max(1, spent.cells)
        before = "" if method == SCRATCH else f"{spent.pretraining} pretraining, "
        told.append(f"{method} {before}{one} a fine-tuning")
    return told


def auc_table(outcome: Outcome, plan: Plan) -> str:
    """Add the AUC of two classes: it belongs to a set of subjects, not to one, so its spread is over seeds."""
    lines = [
        "| labelled subjects | method | AUC, mean of seeds | lowest | highest |",
        "|---|---|---|---|---|",
    ]
    for fraction in plan.fractions:
        for method in (SCRATCH, *plan.methods):
            found = []
            for seed in range(plan.seeds):
                place = (method, fraction, seed)
                value = _auc(
                    [r for r in outcome.rows if (r["method"], r["fraction"], r["seed"]) == place]
                )
                if value is not None:
                    found.append(value)
            if found:
                shown = [f"{statistics.mean(found):.3f}", f"{min(found):.3f}", f"{max(found):.3f}"]
                lines.append("| " + " | ".join([show_fraction(fraction), method, *shown]) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _auc(rows: Sequence[dict[str, object]]) -> float | None:
    """Compute one cell's AUC; None unless there are two classes, both among its subjects."""
    names = sorted(name for name in rows[0] if name.startswith("p ")) if rows else []
    if len(names) != 2 or len({row["truth"] for row in rows}) != 2:
        return None
    scores = np.array([[float(str(row[name])) for name in names] for row in rows])
    truth = np.array([names.index(f"p {row['truth']}") for row in rows])
    return float(roc_auc(scores, truth))
