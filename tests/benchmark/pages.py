"""Pages for tests: an example with every section, hard cases, and a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from unlabeled.benchmark.charts import Curve, Series
from unlabeled.benchmark.measures import Measure, Measured
from unlabeled.benchmark.page import Command, Picture
from unlabeled.benchmark.pictures import overlay, panel
from unlabeled.benchmark.plan import Hours
from unlabeled.benchmark.report import (
    Cost,
    Example,
    MethodCard,
    Missing,
    Pretext,
    ReportData,
)
from unlabeled.benchmark.statistics import Score, compare_scores


def example_comparison(method="models-genesis", fractions=(0.1, 0.25, 1.0), effect=0.03):
    rng = np.random.default_rng(0)
    rows = []
    for fraction in fractions:
        for seed in range(3):
            for subject in range(8):
                base = 0.6 + 0.2 * fraction + 0.01 * subject + rng.normal(0, 0.004)
                rows.append(Score("scratch", fraction, seed, f"s{subject}", base))
                gain = effect * (1.2 - fraction) + rng.normal(0, 0.006)
                rows.append(Score(method, fraction, seed, f"s{subject}", base + gain))
    return compare_scores(rows, resamples=300)


def measured(comparison, title="Dice", of="", unit=""):
    higher = comparison.higher_is_better
    return Measured(Measure(title.lower(), title, higher, unit), of, comparison)


def example_report(word="Models Genesis", **changes) -> ReportData:
    slug = changes.pop("slug", "models-genesis")
    y, x = np.mgrid[:48, :48]
    image = np.hypot(x - 24, y - 24).astype(float)
    mask = (image < 14).astype(int) + (image < 7)
    png = overlay(image, mask, np.roll(mask, 2, axis=0))
    steps = tuple(float(step) for step in range(0, 400, 10))
    falling = tuple(0.05 + 0.3 * np.exp(-step / 90) for step in steps)
    data = ReportData(
        title=f"Does pretraining help? {word}",
        measured=(
            measured(changes.pop("comparison", None) or example_comparison(slug)),
            measured(example_comparison(slug), of="grey"),
            measured(example_comparison(slug), of=word),
        ),
        done=(f"An encoder was pretrained with {word}.", "It was fine-tuned with few labels."),
        virtual="The patients are computed from a template.",
        cautions=(f"Few seeds: {word}",),
        names={slug: word},
        label_counts={0.1: 2, 0.25: 5, 1.0: 20},
        costs={slug: Cost(42.0, 7.5, Hours(core=0.25)), "scratch": Cost(0.0, 7.4)},
        missing=(Missing(f"{slug}-5-seed1", f"no room {word}"),),
        curves=(
            Curve("Pretraining", "step", "loss", (Series(word, steps, falling),), note=word),
            Curve(
                "Fine-tuning",
                "step",
                "Dice",
                (
                    Series("From scratch", steps, tuple(1 - 2 * v for v in falling), colour=0),
                    Series(word, steps, tuple(1 - v for v in falling)),
                ),
            ),
        ),
        previews=(
            Pretext(
                slug,
                f"It restores {word}.",
                (
                    Picture(
                        panel({"deformed": image, "restored": image, "intact": image}),
                        f"Panel {word}",
                        word,
                    ),
                ),
            ),
        ),
        examples=tuple(
            Example(
                f"{rank} test subject",
                f"Dice of {word}",
                (
                    Picture(png, f"{rank} scratch", "From scratch: 0.61"),
                    Picture(png, f"{rank} {word}", word),
                ),
            )
            for rank in ("Best", "Median", "Worst")
        ),
        label_names=("grey", word),
        data={"Scans": "24", "Note": word},
        quarantine={f"no spacing {word}": 2, "empty": 1},
        methods=(
            MethodCard(
                slug,
                word,
                f"Zhou et al., {word}",
                f"@article{{zhou, title={{{word}}}}}",
                {"lr": "1.0", "x": word},
                (word,),
            ),
        ),
        environment={"seed": "0", "torch": "2.13.0", "more": word},
        reproduce=(Command(f"unlabeled demo {word}", "Makes this page again."),),
        next_steps=(Command("unlabeled check scans/", "Looks at your own scans."),),
        created="2026-01-31",
    )
    return replace(data, **changes)


def hard_report() -> ReportData:
    """Make a page of ten methods with long names at six fractions: cells missing, errors in mm, some without bounds."""
    rng = np.random.default_rng(1)
    methods = ["scratch", *(f"method-{'of-a-very-long-name-' * (i % 3)}{i}" for i in range(10))]
    rows = [
        Score(method, fraction, seed, f"s{subject}", 40.0 - 3 * place + rng.normal(0, 2))
        for place, method in enumerate(methods)
        for fraction in (2, 3, 5, 10, 0.5, 1.0)
        if (place, fraction) not in {(3, 5), (4, 10), (4, 1.0)}
        for seed in range(2)
        for subject in range(5)
    ]
    found = compare_scores(rows, metric="HD95", higher_is_better=False, resamples=200)
    alone = compare_scores(
        [row for row in rows if row.subject == "s0"], metric="HD95", higher_is_better=False
    )
    return ReportData(
        title="Hard-to-show-names-" * 4,
        measured=(measured(found, "HD95", unit="mm"), measured(alone, "HD95", "one subject", "mm")),
        done=("A" * 90,),
        missing=tuple(
            Missing(f"{m}-{f}-seed{s}", "out of memory " * 9)
            for m in methods
            for f in (1, 2)
            for s in (0, 1)
        ),
        costs={method: Cost(1e5, 100.0, Hours(gpu=1e3), Hours(core=1e-3)) for method in methods},
        data={"fingerprint" * 4: "0123456789abcdef" * 6},
        quarantine={"reason-without-a-space-" * 5: 3},
        reproduce=(Command("unlabeled compare " + "--methods " * 30, "Runs it again:"),),
    )


def run_folder(folder: Path) -> Path:
    """Write what a fine-tuning of two phases leaves behind, one score of it unknown."""
    (folder / "previews").mkdir(parents=True)
    png = panel({"input": np.eye(20), "output": np.eye(20)})
    for step in (50, 100):
        (folder / "previews" / f"0-warm-step{step:06d}.png").write_bytes(png)
    facts = {
        **{"command": "finetune segment", "unlabeled": "0.1.0", "git": "", "python": "3.11.7"},
        **{"packages": {"torch": "2.13.0"}, "device": "a processor", "devices": 1, "threads": 2},
        **{
            "precision": "32-true",
            "data": "0123456789abcdef",
            "seed": 0,
            "scans": 20,
            "seconds": 75.0,
        },
        **{"subjects": {"train": 10, "val": 4, "test": 6}, "started": "2026-01-31T10:00:00+00:00"},
        **{"finished": True, "exit_reason": "patience", "steps": 100, "wait_share": 0.01},
        **{"loaded": ["45 tensors matched"], "notes": ["a note " * 20], "init": "runs/genesis"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    rows = [
        {
            "phase": phase,
            "total": start + step,
            "loss": 1 / (1 + step),
            "lr": 1e-3,
            "scans_per_second": 3.5,
            "wait_share": 0.0,
        }
        for phase, start in (("warm", 0), ("whole", 50))
        for step in range(0, 50, 10)
    ]
    rows.append({"phase": "whole", "held_out": {"dice": 0.5, "loss": 0.4}})
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "options.toml").write_text(
        "# all\n\nlr = 0.001  # command line\n# spacing =  (not set)  # default\n"
    )
    (folder / "quarantine.csv").write_text("file,reason,remedy\na.nii,no spacing,none\n")
    value, unknown = (
        {"value": 0.5, "low": 0.4, "high": 0.6},
        {"value": None, "low": None, "high": None},
    )
    measures = {"dice": value, "dice liver": value, "dice spleen": unknown, "hd95": value}
    told = {"test": {"subjects": 6, "scans": 6, "unit": "mm", "measures": measures}}
    (folder / "metrics.json").write_text(json.dumps(told))
    return folder
