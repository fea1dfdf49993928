"""Run a plan on real data, and write its figures: ``make evidence DATA=FOLDER``.

    python evidence/run.py --data FOLDER [--plan NAME ...] [--part val|test] [--work FOLDER]

A plan is a TOML file in ``plans/``.  What has run stays in the work folder and is not run again.  With ``--part test`` the rows go to
``NAME.csv``, the table to ``NAME.md`` and the comparisons to ``src/unlabeled/evidence.csv``; with ``--part val`` (for choosing
options) the table is printed alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

from collect import write_plan

from data import lay_out
from unlabeled.benchmark.jobs import run_plan
from unlabeled.benchmark.plan import SCRATCH, Outcome, Plan, as_fraction, show_fraction
from unlabeled.benchmark.statistics import Comparison, compare_scores
from unlabeled.benchmark.verdict import verdict
from unlabeled.training.facts import cpu_name, git_state
from unlabeled.training.log import RunFolder

HERE = Path(__file__).resolve().parent


def read_plan(name: str, data: Path, work: Path, part: str) -> tuple[Plan, dict[str, Any]]:
    """Read a plan file, with its data laid out."""
    told = tomllib.loads((HERE / "plans" / f"{name}.toml").read_text())
    scans, labelled = lay_out(told["data"], data, work / "data")
    fractions = tuple(float(value) for value in told["fractions"])
    plan = Plan(
        scans=scans,
        labelled=labelled,
        task=told["task"],
        methods={slug: _tuples(options) for slug, options in told["methods"].items()},
        fractions=fractions,
        seeds=told["seeds"],
        finetuning=_tuples(told["finetuning"]),
        part=part,
        settings={"quiet": True, **told.get("settings", {})},
    )
    return plan, told


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {n: tuple(v) if isinstance(v, list) else v for n, v in options.items()}


def table(
    comparison: Comparison, outcome: Outcome, plan: Plan, told: dict[str, Any], data: str
) -> str:
    """Write the figures as Markdown, the verdict first."""
    metric = told["metric"]
    labels = {as_fraction(value): show_fraction(value) for value in plan.fractions}
    lines = [
        f"# {told['title']}",
        "",
        f"**{verdict(comparison)}**",
        "",
        f"| labelled subjects | method | {metric} (95 % interval) | difference to scratch (95 % interval) | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    for cell in sorted(comparison.cells, key=lambda c: list(labels).index(c.label_fraction)):
        score = f"{cell.score.mean:.3f} ({cell.score.low:.3f} to {cell.score.high:.3f})"
        if cell.difference is None:
            against = ["", ""]
        else:
            gap = cell.difference.interval
            against = [
                f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})",
                f"{cell.difference.p_holm:.2g}",
            ]
        shown = [labels[cell.label_fraction], cell.method, score, *against]
        lines.append("| " + " | ".join(shown) + " |")
    first = comparison.cells[0]
    minutes = {
        name: {what: seconds / 60 for what, seconds in spent.items()}
        for name, spent in outcome.seconds.items()
    }
    lines += [
        "",
        f"{first.subjects} {plan.part} subjects, {plan.seeds} seeds a cell; each cell's intervals over new seeds and new subjects. "
        + "; ".join(
            f"{name}: {spent['pretraining']:.0f} min pretraining, {spent['fine-tuning']:.0f} min fine-tuning"
            for name, spent in minutes.items()
        )
        + f" on {cpu_name()}.",
        "",
        f"Printed by `make evidence DATA=... PLAN={told['name']}`, commit {git_state()}, data {data}.",
        "",
    ]
    return "\n".join(lines)


def auc_table(outcome: Outcome, plan: Plan) -> str:
    """Add the AUC of two classes: it belongs to a set of subjects, not to one, so its spread is over seeds."""
    from unlabeled.transfer.metrics import roc_auc

    lines = [
        "| labelled subjects | method | AUC, mean of seeds | lowest | highest |",
        "|---|---|---|---|---|",
    ]
    import numpy as np

    for fraction in plan.fractions:
        for method in (SCRATCH, *plan.methods):
            found = []
            for seed in range(plan.seeds):
                rows = [
                    row
                    for row in outcome.rows
                    if (row["method"], row["fraction"], row["seed"]) == (method, fraction, seed)
                ]
                if rows:
                    names = sorted(name for name in rows[0] if name.startswith("p "))
                    scores = np.array([[float(row[name]) for name in names] for row in rows])
                    truth = np.array([names.index(f"p {row['truth']}") for row in rows])
                    found.append(float(roc_auc(scores, truth)))
            if found:
                shown = [f"{statistics.mean(found):.3f}", f"{min(found):.3f}", f"{max(found):.3f}"]
                lines.append("| " + " | ".join([show_fraction(fraction), method, *shown]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the plans asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plan", action="append", default=[])
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "unlabeled-evidence")
    asked = parser.parse_args()
    names = asked.plan or sorted(path.stem for path in (HERE / "plans").glob("*.toml"))
    for name in names:
        plan, told = read_plan(name, asked.data, asked.work, asked.part)
        told["name"] = name
        outcome = run_plan(
            plan,
            asked.work / name,
            cache=asked.work / "cache",
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        for cell, fault in outcome.failed.items():
            print(f"{cell} failed: {fault}", file=sys.stderr)
        comparison = compare_scores(outcome.scores(told["column"]), metric=told["metric"])
        runs = [RunFolder(asked.work / name / f"pretrain-{slug}") for slug in plan.methods]
        data = ", ".join(str(run.read_facts().get("data", "unknown")) for run in runs)
        text = table(comparison, outcome, plan, told, data)
        if plan.task == "classify":
            text += "\n" + auc_table(outcome, plan)
        print(text)
        if asked.part == "test":
            (HERE / f"{name}.md").write_text(text)
            kept = ["method", "fraction", "seed", "subject", *told["keep"]]
            with (HERE / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, kept, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(outcome.rows)
            write_plan(name)


if __name__ == "__main__":
    main()
