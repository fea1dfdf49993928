"""What pages read of run folders: panels, options, versions, files left out, and the paper behind a method."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from unlabeled.benchmark.page import Picture
from unlabeled.benchmark.pictures import shrink
from unlabeled.benchmark.report import MethodCard
from unlabeled.catalogue import cards
from unlabeled.catalogue.bibtex import bibtex
from unlabeled.errors import UnlabeledError
from unlabeled.methods._registry import find
from unlabeled.training.log import RunFolder


def read_facts(run: Path) -> dict[str, Any]:
    """Read ``run.json``; empty where it is not there, or damaged."""
    try:
        return RunFolder(run).read_facts()
    except UnlabeledError:
        return {}


def previews_of(run: Path, called: str, most: int = 3) -> tuple[Picture, ...]:
    """Choose panels of a pretraining, evenly over its steps, the first and the last among them."""
    found = sorted(RunFolder(run).previews.glob("*.png"))
    if not found:
        return ()
    last = len(found) - 1
    places = sorted({round(last * i / max(1, most - 1)) for i in range(most)})
    pictures = []
    for place in places:
        step = found[place].stem.rsplit("step", 1)[-1].lstrip("0") or "0"
        told = f"The pretext task of {called} after {step} steps, on held-out scans"
        pictures.append(Picture(shrink(found[place].read_bytes()), told, f"after {step} steps"))
    return tuple(pictures)


def card_of(slug: str, run: Path) -> MethodCard:
    """Say what a method is, with the options that it ran with."""
    card = cards().get(slug)
    own = find(slug).options_class.names()
    facts = read_facts(run)
    return MethodCard(
        slug=slug,
        title=card.title if card else slug,
        citation=f"{card.venue} {card.year}" if card else "",
        bibtex=bibtex(card) if card else "",
        options={n: v for n, v in read_options(run).items() if n in own},
        notes=tuple(str(line) for line in facts.get("loaded") or ()),
        links=card.paper_links if card else (),
    )


def read_options(run: Path) -> dict[str, str]:
    """Read the options of a run as text; empty where there is none."""
    try:
        return {n: json.dumps(v) for n, v in RunFolder(run).read_options().items()}
    except UnlabeledError:
        return {}


def environment_of(run: Path | None) -> dict[str, str]:
    """Collect versions, device, seed and fingerprint of a run."""
    facts = read_facts(run) if run else {}
    if not facts:
        return {}
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    many = (
        f"{facts['devices']} \N{MULTIPLICATION SIGN} " if int(facts.get("devices", 1)) > 1 else ""
    )
    return {
        "Unlabeled": f"{facts['unlabeled']} {facts['git']}".strip(),
        "Device": f"{many}{facts['device']}, {facts['precision']}, {facts['threads']} threads",
        "Python": str(facts["python"]),
        "Packages": packages,
        "Data fingerprint": str(facts["data"]),
        "Seed": str(facts["seed"]),
    }


def quarantine_of(run: Path) -> dict[str, int]:
    """Count the files that a run left out, by reason."""
    path = run / "quarantine.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return dict(Counter(row["reason"] for row in csv.DictReader(file)))
