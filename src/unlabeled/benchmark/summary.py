"""From a plan and its run folders to the page of a comparison."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from unlabeled.benchmark.charts import in_order
from unlabeled.benchmark.examples import find_examples
from unlabeled.benchmark.learning import curves_of
from unlabeled.benchmark.measures import Measured, compare_measures
from unlabeled.benchmark.page import Command
from unlabeled.benchmark.plan import SCRATCH, Cell, Outcome, Plan, as_fraction, place_of
from unlabeled.benchmark.plan_file import NAME, plan_text
from unlabeled.benchmark.report import Auc, Cost, Missing, Pretext, ReportData, write_report
from unlabeled.benchmark.sources import (
    card_of,
    environment_of,
    previews_of,
    quarantine_of,
    read_facts,
    read_options,
)
from unlabeled.benchmark.statistics import Fraction
from unlabeled.benchmark.verdict import fraction_text
from unlabeled.errors import UnlabeledError
from unlabeled.methods._registry import find
from unlabeled.nn.weights import read_weights
from unlabeled.transfer.metrics import roc_auc

REPORT = "report.html"
_GOALS: Mapping[str, str] = {
    "segment": "segment",
    "instances": "find single objects",
    "classify": "tell classes apart",
    "regress": "estimate a number",
    "localise": "say where in the body a slice lies",
    "few-shot": "segment by a few labelled slices",
    "label-transfer": "segment by the nearest labelled voxels",
    "multi-task": "segment while finding positions",
    "zero-shot": "tell classes apart by their descriptions",
}


def write_comparison(
    plan: Plan, outcome: Outcome, out: Path, *, cache: Path | None = None, to: Path | None = None
) -> Path:
    """Write the page of a comparison from its plan and run folders.

    Parameters
    ----------
    plan, outcome, out
        What was compared, what it came to, and where.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    to
        The file; ``OUT/report.html`` when absent.

    Returns
    -------
    Path
        The file.
    """
    return write_report(to or out / REPORT, report_of(plan, outcome, out, cache=cache))


def report_of(
    plan: Plan,
    outcome: Outcome,
    out: Path,
    *,
    title: str = "",
    names: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> ReportData:
    """Collect all that the page of a comparison shows.

    Parameters
    ----------
    plan, outcome, out
        What was compared, what it came to, and where; example masks that are not there yet go to ``OUT/predictions``.
    title
        Heading; without one, the question that the plan asks.
    names
        Names of methods by slug; without one, the slug is shown.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    """
    shown = {SCRATCH: "From scratch", **(names or {})}
    measured = compare_measures(plan.task, outcome, unit=_unit(plan, out))
    counts = label_counts(plan, out)
    examples = find_examples(plan, outcome, out, measured, shown, counts, cache=cache)
    runs = [out / f"pretrain-{slug}" for slug in plan.methods]
    cell = _first_run(plan, out)
    return ReportData(
        title=title
        or plan.title
        or f"Does pretraining help to {_GOALS[plan.task]} with few labels?",
        measured=measured,
        done=_done(plan, out, counts),
        cautions=_cautions(plan, outcome, measured),
        names=dict(names or {}),
        label_counts=counts,
        costs=costs_of(outcome),
        aucs=aucs_of(outcome),
        missing=missing_of(plan, outcome, out),
        curves=curves_of(plan, out, shown),
        previews=tuple(p for slug in plan.methods if (p := pretext_of(slug, out)).pictures),
        examples=examples.shown,
        examples_about=examples.about,
        label_names=examples.label_names,
        data=_data(plan, out),
        quarantine=_quarantine([*runs, *([cell] if cell else [])]),
        methods=tuple(card_of(slug, out / f"pretrain-{slug}") for slug in plan.methods),
        finetuning=_finetuning(plan, cell),
        environment=environment_of(next((run for run in runs if read_facts(run)), cell)),
        reproduce=_reproduce(out),
        plan=_plan_text(plan),
        next_steps=_next_steps(plan, measured),
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def costs_of(outcome: Outcome) -> dict[str, Cost]:
    """Give training time by method: pretraining once, and one fine-tuning on average."""
    costs = {}
    for method, spent in outcome.spent.items():
        seconds, cells = outcome.seconds[method], max(1, spent.cells)
        costs[method] = Cost(
            seconds["pretraining"],
            seconds["fine-tuning"] / cells,
            spent.pretraining,
            spent.finetuning / cells,
        )
    return costs


def label_counts(plan: Plan, out: Path) -> dict[Fraction, int]:
    """Count the labelled subjects that each label fraction came to."""
    counts: dict[Fraction, int] = {}
    for cell in plan.cells:
        trained = read_facts(place_of(plan, cell, out)).get("subjects", {})
        if isinstance(trained, dict) and "train" in trained:
            counts.setdefault(as_fraction(cell.fraction), int(trained["train"]))
    return counts


def missing_of(plan: Plan, outcome: Outcome, out: Path) -> tuple[Missing, ...]:
    """Name every run of the plan that has no figures, with its reason."""
    found = [Missing(name, reason) for name, reason in outcome.failed.items()]
    measured = {(row["method"], float(row["fraction"]), int(row["seed"])) for row in outcome.rows}
    for cell in plan.cells:
        if (
            cell.method,
            float(cell.fraction),
            cell.seed,
        ) in measured or cell.name in outcome.failed:
            continue
        pretraining = f"pretrain-{cell.method}"
        if pretraining in outcome.failed:
            found.append(Missing(cell.name, "its pretraining failed"))
            continue
        reason = str(read_facts(place_of(plan, cell, out)).get("exit_reason", "has not run yet"))
        found.append(
            Missing(cell.name, "is running or was cut off" if reason == "running" else reason)
        )
    return tuple(found)


def pretext_of(slug: str, out: Path) -> Pretext:
    """Choose the first, a middle and the last panel of a pretraining."""
    about = (inspect.getdoc(find(slug)) or "").split("\n\n")[0].replace("\n", " ")
    return Pretext(slug, about, previews_of(out / f"pretrain-{slug}", slug))


def _first_run(plan: Plan, out: Path) -> Path | None:
    """Find the first fine-tuning that has finished."""
    places = (place_of(plan, cell, out) for cell in plan.cells)
    return next((run for run in places if read_facts(run).get("finished")), None)


def _unit(plan: Plan, out: Path) -> str:
    """Tell the unit of distances, as the first finished cell measured them."""
    cell = _first_run(plan, out)
    if cell is None or not (cell / "metrics.json").is_file():
        return ""
    told = json.loads((cell / "metrics.json").read_text())
    return str(told.get(plan.part, {}).get("unit", ""))


def _done(plan: Plan, out: Path, counts: Mapping[Fraction, int]) -> tuple[str, ...]:
    """Tell in plain words what was done."""
    learnt = [read_facts(out / f"pretrain-{slug}") for slug in plan.methods]
    scans = max((int(facts.get("scans", 0)) for facts in learnt), default=0)
    sizes = [_labels_text(f, counts) for f in in_order(map(as_fraction, plan.fractions), counts)]
    starts = f"{plan.seeds} random starts" if plan.seeds > 1 else "one random start"
    subjects = read_facts(_first_run(plan, out) or Path()).get("subjects", {})
    tested = subjects.get(plan.part) if isinstance(subjects, dict) else None
    methods = _listed(list(plan.methods))
    told = []
    if plan.methods:
        amount = f"{scans} scans" if scans else "scans"
        told.append(f"An encoder was pretrained on {amount} without labels, by {methods}.")
    told.append(
        f"{'It' if len(plan.methods) == 1 else 'Each'} was fine-tuned to {_GOALS[plan.task]} with {_listed(sizes, 'or')}, from "
        f"{starts}; so was the same network from scratch, with the same subjects and the same budget."
    )
    amount = f"the same {tested}" if tested else "the same"
    told.append(
        f"All were measured on {amount} {_PARTS[plan.part]} subjects, which no fine-tuning had learnt from."
    )
    return tuple(told)


_PARTS: Mapping[str, str] = {"test": "test", "val": "validation"}


def _labels_text(fraction: Fraction, counts: Mapping[Fraction, int]) -> str:
    known = counts.get(fraction)
    text = fraction_text(fraction)
    return text if known is None or isinstance(fraction, int) else f"{text} ({known} subjects)"


def _listed(words: list[str], last: str = "and") -> str:
    """Join words as in a sentence.

    >>> _listed(["a", "b", "c"]), _listed(["a"])
    ('a, b and c', 'a')
    """
    return (
        words[0]
        if len(words) == 1
        else f"{', '.join(words[:-1])} {last} {words[-1]}"
        if words
        else ""
    )


def _cautions(plan: Plan, outcome: Outcome, measured: tuple[Measured, ...]) -> tuple[str, ...]:
    """Say what a reader must know before trusting the figures."""
    told = []
    cells = list(plan.cells)
    finished = {(row["method"], float(row["fraction"]), int(row["seed"])) for row in outcome.rows}
    if len(finished) < len(cells):
        told.append(
            f"{len(finished)} of {len(cells)} cells have figures; the others are named below."
        )
    if plan.part == "val":
        told.append(
            "Measured on the validation subjects, by which the best weights of each run were chosen: "
            "for choosing options, not for quoting."
        )
    if not measured:
        return tuple(told)
    shown = measured[0].comparison.cells
    if min(cell.seeds for cell in shown) == 1:
        told.append("One random start: how much chance there is in training was not measured.")
    elif min(cell.seeds for cell in shown) < plan.seeds:
        told.append(
            "At some label fractions fewer random starts have finished in every method; only those are compared."
        )
    subjects = min(cell.subjects for cell in shown)
    if subjects < 10:
        told.append(
            f"{subjects} test subject{'s' * (subjects != 1)}: only large effects can be told from chance."
        )
    left = max(each.left_out for each in measured)
    if left:
        told.append(
            f"Up to {left} subjects have no value in some cell (they lack the class) and are left out of that measure."
        )
    return tuple(told)


def _data(plan: Plan, out: Path) -> dict[str, str]:
    """Sum up the scans: how many, of what, with which voxels."""
    facts: dict[str, str] = {}
    for slug in plan.methods:
        told = read_facts(out / f"pretrain-{slug}")
        if told and "Unlabelled scans" not in facts:
            facts["Unlabelled scans"] = f"{told['scans']} of {told['subjects']} subjects"
            facts |= _grid(out / f"pretrain-{slug}")
    run = _first_run(plan, out)
    told = read_facts(run) if run else {}
    if run and told:
        counts = told["subjects"]
        facts["Labelled subjects"] = (
            f"{told.get('train_subjects_labelled', counts['train'])} to train on, {counts['val']} to validate, "
            f"{counts['test']} to test"
        )
        facts["Labelled scans"] = str(told["scans"])
        facts["Fingerprint of the labelled scans"] = str(told["data"])
    return facts


def _grid(run: Path) -> dict[str, str]:
    """Tell modality and voxels from what the weights say of the scans that they learnt from."""
    try:
        _, told = read_weights(run)
    except UnlabeledError:
        return {}
    facts = {}
    if any(told.get("modality") or ()):
        facts["Kind of scan"] = ", ".join(kind for kind in told["modality"] if kind)
    if told.get("spacing"):
        edges = " \N{MULTIPLICATION SIGN} ".join(f"{edge:.3g}" for edge in told["spacing"])
        facts["Usual voxel"] = f"{edges} mm"
    if told.get("encoder"):
        facts["Network"] = (
            f"{told['encoder']}, {told.get('dims', '?')}D, {told.get('channels', '?')} channel(s)"
        )
    return facts


def _quarantine(runs: list[Path]) -> dict[str, int]:
    """Count the files left out by reason, the most that any of the runs left out for it."""
    most: dict[str, int] = {}
    for run in runs:
        for reason, count in quarantine_of(run).items():
            most[reason] = max(count, most.get(reason, 0))
    return most


def _finetuning(plan: Plan, run: Path | None) -> dict[str, str]:
    """Give the options that every fine-tuning shares."""
    each = {"init", "seed", "label_fraction", "task"}
    return {n: v for n, v in read_options(run).items() if n not in each} if run else {}


def aucs_of(outcome: Outcome) -> tuple[Auc, ...]:
    """Compute the AUC of every cell of a classification into two classes, and sum the random starts up."""
    cells: dict[tuple[str, Fraction], dict[int, list[Mapping[str, Any]]]] = {}
    for row in outcome.rows:
        place = (row["method"], as_fraction(row["fraction"]))
        cells.setdefault(place, {}).setdefault(int(row["seed"]), []).append(row)
    found = []
    for (method, fraction), seeds in cells.items():
        values = [value for rows in seeds.values() if (value := _auc(rows)) is not None]
        if values:
            found.append(Auc(method, fraction, fmean(values), min(values), max(values)))
    return tuple(found)


def _auc(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Compute one cell's AUC; None unless there are two classes, both among its subjects."""
    names = sorted(name for name in rows[0] if name.startswith("p "))
    if len(names) != 2 or len({row["truth"] for row in rows}) != 2:
        return None
    scores = np.array([float(row[names[1]]) for row in rows])
    truth = np.array([f"p {row['truth']}" == names[1] for row in rows], dtype=np.intp)
    return float(roc_auc(scores, truth))


def _plan_text(plan: Plan) -> str:
    """Write the plan as a file, without the places of this machine."""
    return plan_text(replace(plan, scans=Path("SCANS"), labelled=Path("LABELLED")))


def _reproduce(out: Path) -> tuple[Command, ...]:
    return (
        Command(
            f"unlabeled compare --config {out.name}/{NAME} --out AGAIN",
            "Runs the same comparison anew; with its own folder as --out, only what is missing:",
        ),
        Command(f"unlabeled report {out.name}", "Writes this page again:"),
    )


def _next_steps(plan: Plan, measured: tuple[Measured, ...]) -> tuple[Command, ...]:
    """Say what to type with the method that did best."""
    if not measured:
        return ()
    comparison = measured[0].comparison
    sign = 1.0 if comparison.higher_is_better else -1.0
    best = max(comparison.cells, key=lambda cell: sign * cell.score.mean)
    cell = Cell(best.method, float(best.label_fraction), 0)
    return (
        Command(
            f"unlabeled predict {plan.part}/{cell.name} SCANS --out PREDICTIONS",
            "Applies the network with the best mean score to new scans (from within the folder of the comparison):",
        ),
    )
