"""What a report shows of a plan's runs: learning curves, previews, best and worst predictions, facts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.benchmark.charts import Curve, Series, colour_of
from unlabeled.benchmark.pictures import overlay, upright
from unlabeled.benchmark.plan import SCRATCH, Cell, Outcome, Plan, place_of, show_fraction
from unlabeled.benchmark.report import Cost, Example, MethodCard, Picture
from unlabeled.catalogue import cards
from unlabeled.data.formats import read_mask, read_scan
from unlabeled.data.scan import Source
from unlabeled.methods._registry import find
from unlabeled.training.log import RunFolder

PREVIEWS = 3  # first, middle and last of a pretraining


def curves_of(plan: Plan, out: Path) -> tuple[Curve, ...]:
    """Draw the loss of each pretraining, and the validation score of the first seed's fine-tunings."""
    curves = []
    for slug in plan.methods:
        points = _points(out / f"pretrain-{slug}", "loss")
        curves.append(
            Curve(f"Pretraining, {slug}", "step", "loss", (_series("training", points, 1),))
        )
    colours = colour_of((SCRATCH, *plan.methods))
    for fraction in plan.fractions:
        lines = []
        for method in (SCRATCH, *plan.methods):
            points = _held_out(place_of(plan, Cell(method, fraction, 0), out))
            if points:
                lines.append(_series(method, points, colours[method]))
        if lines:
            title = f"Fine-tuning, labelled subjects: {show_fraction(fraction)} (first seed)"
            note = "Measured on patches of validation subjects between rounds."
            curves.append(Curve(title, "step", "validation score", tuple(lines), note))
    return tuple(curves)


def previews_of(run: Path, slug: str) -> tuple[Picture, ...]:
    """Choose the first, a middle and the last panel of a pretraining."""
    found = sorted(RunFolder(run).previews.glob("*.png"))
    if not found:
        return ()
    places = sorted({0, len(found) // 2, len(found) - 1})
    pictures = []
    for place in places:
        step = found[place].stem.rsplit("step", 1)[-1].lstrip("0") or "0"
        told = f"The pretext task of {slug} after {step} steps, on held-out scans"
        pictures.append(Picture(found[place].read_bytes(), told, f"after {step} steps"))
    return tuple(pictures)


def examples_of(
    outcome: Outcome, method: str, sources: Sequence[Source], predictions: Path, metric: str
) -> tuple[Example, ...]:
    """Show the best, the median and the worst test subject of a method's first seed, with the truth outlined."""
    scores: dict[str, list[float]] = {}
    for row in outcome.rows:
        if (row["method"], row["seed"]) == (method, 0):
            scores.setdefault(row["subject"], []).append(float(row[metric]))
    ranked = sorted(scores, key=lambda subject: float(np.mean(scores[subject])))
    by_subject = {source.subject: source for source in sources}
    examples = []
    for title, place in (("Best", -1), ("Median", len(ranked) // 2), ("Worst", 0)):
        source = by_subject.get(ranked[place]) if ranked else None
        if source is not None and source.mask is not None:
            value = float(np.mean(scores[source.subject]))
            picture = _drawn(source, predictions, title)
            examples.append(Example(title, f"{metric} {value:.3f}", (picture,)))
    return tuple(examples)


def cards_of(plan: Plan, out: Path) -> tuple[MethodCard, ...]:
    """Say what each method is, with the options that it ran with."""
    made = []
    for slug in plan.methods:
        card = cards().get(slug)
        options = RunFolder(out / f"pretrain-{slug}").read_options()
        own = find(slug).options_class.names()
        title = card.title if card else slug
        citation = f"{card.title}. {card.venue} {card.year}." if card else slug
        made.append(
            MethodCard(
                slug=slug,
                title=title,
                citation=citation,
                bibtex=_bibtex(slug),
                options={n: json.dumps(v) for n, v in options.items() if n in own},
            )
        )
    return tuple(made)


def costs_of(plan: Plan, outcome: Outcome) -> dict[str, Cost]:
    """Give training time by method: pretraining once, and one fine-tuning on average."""
    cells = Counter(cell.method for cell in plan.cells)
    return {
        method: Cost(spent["pretraining"], spent["fine-tuning"] / max(1, cells[method]))
        for method, spent in outcome.seconds.items()
    }


def environment_of(run: Path) -> dict[str, str]:
    """Collect versions, device, seeds and fingerprints of a run."""
    facts = RunFolder(run).read_facts()
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return {
        "Unlabeled": f"{facts['unlabeled']} {facts['git']}".strip(),
        "Device": f"{facts['device']}, {facts['precision']}, {facts['threads']} threads",
        "Python": facts["python"],
        "Packages": packages,
        "Data fingerprint": facts["data"],
        "Seed of the pretraining": str(facts["seed"]),
    }


def quarantine_of(run: Path) -> dict[str, int]:
    """Count the files that a run left out, by reason."""
    with (run / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        return dict(Counter(row["reason"] for row in csv.DictReader(file)))


def _bibtex(slug: str) -> str:
    card = cards().get(slug)
    if card is None:
        return ""
    key = slug.replace("-", "")
    lines = [f"@misc{{{key}{card.year},", f"  title = {{{card.title}}},"]
    lines += [f"  howpublished = {{{card.venue}}},", f"  year = {{{card.year}}},"]
    if card.paper_links:
        lines.append(f"  url = {{{card.paper_links[0]}}},")
    return "\n".join([*lines, "}"])


def _drawn(source: Source, predictions: Path, title: str) -> Picture:
    """Draw the slice that holds most of the truth, upright, with prediction and truth."""
    if source.mask is None:
        raise TypeError("an example needs a mask")
    scan = read_scan(source)
    truth = read_mask(source.mask, like=scan)
    found = read_mask(_prediction_of(source, predictions), like=scan)
    image = scan.intensities()[0]
    if image.ndim == 3:
        place = int(np.argmax((truth > 0).sum(axis=(0, 1))))
        image, truth, found = (upright(a[..., place]) for a in (image, truth, found))
    alt = f"{title} test subject: prediction tinted, truth outlined"
    return Picture(overlay(image, found, truth), alt, "prediction tinted, truth outlined")


def _prediction_of(source: Source, predictions: Path) -> Any:
    from unlabeled.data.scan import ScanFile

    stem = Path(source.name).name.split(".")[0]
    path = next(path for path in sorted(predictions.rglob(f"{stem}*")) if path.is_file())
    return ScanFile((path,), "picture" if path.suffix == ".png" else "nifti")


def _points(run: Path, name: str) -> list[tuple[float, float]]:
    rows = RunFolder(run).read_log()
    return [(float(row["total"]), float(row[name])) for row in rows if name in row]


def _held_out(run: Path) -> list[tuple[float, float]]:
    """Read the monitored validation score; its step is that of the line before."""
    points, step = [], 0.0
    for row in RunFolder(run).read_log():
        step = float(row.get("total", step))
        if "held_out" in row:
            name = next((n for n in ("dice", "accuracy") if n in row["held_out"]), None)
            name = name or next(iter(row["held_out"]), None)
            if name is not None:
                points.append((step, float(row["held_out"][name])))
    return points


def _series(name: str, points: Sequence[tuple[float, float]], colour: int) -> Series:
    xs, ys = zip(*points, strict=True) if points else ((), ())
    return Series(name, tuple(xs), tuple(ys), colour=colour)
