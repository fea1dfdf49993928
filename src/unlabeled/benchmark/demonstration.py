"""The main job in small: a virtual cohort, pretraining, few labels, and an honest comparison with scratch."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlabeled.benchmark.jobs import run_plan
from unlabeled.benchmark.page import Command
from unlabeled.benchmark.plan import Cell, Plan, place_of
from unlabeled.benchmark.report import write_report
from unlabeled.benchmark.statistics import Comparison
from unlabeled.benchmark.summary import report_of
from unlabeled.benchmark.verdict import verdict
from unlabeled.demo.cohort import make_cohort
from unlabeled.errors import RunError
from unlabeled.transfer.predict import predict

SLUG = "models-genesis"
PARTS = (("train", 3), ("val", 2), ("test", 10))  # labelled patients
UNLABELLED = 24
SPACING = 6.0  # [mm]
NAMES: Mapping[str, str] = {
    SLUG: "Models Genesis",
    "label 1": "grey matter",
    "label 2": "white matter",
}
VIRTUAL = (
    "The patients are virtual: deformed copies of the MNI152 template with simulated contrast, bias field and noise. "
    "The figures show that the chain works on this machine, and say nothing about real patients."
)
PRETRAINING: Mapping[str, Any] = {
    "encoder": "resenc-tiny",
    "patch_size": (24, 24, 24),
    "batch_size": 4,
    "samples_per_scan": 4,
    "optimiser": "adam",
    "lr": 2e-3,
    "shuffle_windows": 1000,
    "steps": 200,
}
FINETUNING: Mapping[str, Any] = {"steps": 60, "batch_size": 2, "epochs": 3, "lr": 5e-3}


@dataclass(frozen=True)
class Demonstrated:
    """What the demo left behind."""

    report: Path
    predictions: Path
    verdict: str
    comparison: Comparison


def demonstrate(
    out: Path, *, seeds: int = 3, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> Demonstrated:
    """Make the cohort, run the comparison, predict the test patients, and write the report."""
    say(f"making {UNLABELLED} virtual patients without labels and {_labelled()} with")
    cohort = make_cohort(
        out / "data", subjects=UNLABELLED, labelled=_labelled(), seed=seed, spacing=SPACING
    )
    manifest = _manifest(cohort.labelled, None)
    plan = Plan(
        scans=cohort.scans,
        labelled=manifest,
        task="segment",
        methods={SLUG: {**PRETRAINING, "seed": seed}},
        seeds=seeds,
        finetuning=FINETUNING,
        settings={"quiet": True, "score_every": 50, "checkpoint_minutes": 60.0},
    )
    runs = out / "runs"
    outcome = run_plan(plan, runs, cache=out / "cache", say=say)
    say("predicting the test patients")
    predictions = out / "predictions"
    best = place_of(plan, Cell(SLUG, 1.0, 0), runs)
    test = _manifest(cohort.labelled, "test")
    predict(best, test, predictions, cache=out / "cache", quiet=True)
    say("writing the report")
    made = report_of(
        plan,
        outcome,
        runs,
        title="Does pretraining help? The demo of Unlabeled",
        names=NAMES,
        cache=out / "cache",
    )
    data = replace(
        made,
        virtual=VIRTUAL,
        done=_told(seeds),
        cautions=(
            f"{seeds} random starts and {PARTS[2][1]} test patients: small effects cannot be told from chance.",
            "Networks and training times are cut down to fit into minutes.",
        ),
        data={
            "Unlabelled scans": str(UNLABELLED),
            "Labelled patients": ", ".join(f"{count} {part}" for part, count in PARTS),
            "Voxels": f"about {SPACING:g} mm, several orientations",
        },
        reproduce=(Command(f"unlabeled demo --seeds {seeds} --seed {seed}", "Makes this page:"),),
        next_steps=next_steps(),
    )
    report = write_report(out / "report.html", data)
    if data.comparison is None:
        raise RunError(f"no cell of the demo in {out} could be run", "Start it anew: --overwrite.")
    return Demonstrated(report, predictions, verdict(data.comparison, NAMES), data.comparison)


def next_steps() -> tuple[Command, ...]:
    """Say what to type on one's own scans."""
    return (
        Command("unlabeled check SCANS", "what of a folder can be used"),
        Command(f"unlabeled pretrain {SLUG} SCANS --out RUN", "learns from scans without labels"),
        Command(
            "unlabeled finetune segment LABELLED --init RUN --out TASK", "needs few labels then"
        ),
        Command("unlabeled predict TASK SCANS --out MASKS", "masks on each scan's own grid"),
    )


def _labelled() -> int:
    return sum(count for _, count in PARTS)


def _told(seeds: int) -> tuple[str, ...]:
    few = PARTS[0][1]
    return (
        f"A network learnt from {UNLABELLED} scans without labels by restoring patches that had been deformed "
        f"(Models Genesis).",
        f"It was then fine-tuned to segment grey and white matter with {few} labelled patients, {seeds} times from "
        f"different random starts; so was the same network from scratch, with the same patients and budget.",
        f"Both were measured on the same {PARTS[2][1]} test patients, which neither had seen.",
    )


def _manifest(labelled: Path, part: str | None) -> Path:
    """Write a manifest of the labelled patients, all or those of one part."""
    parts = [name for name, count in PARTS for _ in range(count)]
    images = sorted((labelled / "images").iterdir())
    rows = [
        {
            "image": os.fspath(image.relative_to(labelled)),
            "mask": os.fspath(Path("labels") / image.name),
            "subject": image.name.split(".")[0],
            "split": of,
        }
        for image, of in zip(images, parts, strict=True)
        if part in (None, of)
    ]
    path = labelled / f"{part or 'labelled'}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
