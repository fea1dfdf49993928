"""Lay out the real data sets as a person would have them: a folder of scans, and a manifest of labelled ones."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PARTS = ("train", "val", "test")


def lay_out(name: str, data: Path, work: Path) -> tuple[Path, Path]:
    """Unpack a data set once; give the folder of unlabelled scans and the manifest of labelled ones."""
    place = work / name
    made = {"hippocampus-mri": _hippocampus, "chest-xray-longitudinal": _chest}[name]
    return made(data / name, place)


def _hippocampus(source: Path, place: Path) -> tuple[Path, Path]:
    """All 114 training images without labels; every subject with labels and its part."""
    _unpack(source, place)
    rows = [
        {
            "image": f"{part}/images/{image.name}",
            "mask": f"{part}/labels/{image.name}",
            "subject": image.name.removesuffix(".nii.gz"),
            "split": part,
        }
        for part in PARTS
        for image in sorted((place / part / "images").iterdir())
    ]
    return place / "train" / "images", _manifest(place / "labelled.csv", rows)


def _chest(source: Path, place: Path) -> tuple[Path, Path]:
    """All training radiographs; ap or pa as the label, patients as subjects."""
    _unpack(source, place)
    with (source / "images.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    files = {path.name: path for path in place.rglob("*.png")}
    rows = []
    for row in known:
        path = files.get(row["image"])
        if path is not None and row["projection"] in ("ap", "pa"):
            rows.append(
                {
                    "image": str(path.relative_to(place)),
                    "label": row["projection"],
                    "subject": row["patient_id"],
                    "split": row["split"],
                }
            )
    unlabelled = [
        {key: row[key] for key in ("image", "subject")} for row in rows if row["split"] == "train"
    ]
    scans = _manifest(place / "scans.csv", unlabelled)
    return scans, _manifest(place / "labelled.csv", rows)


def _unpack(source: Path, place: Path) -> None:
    for part in PARTS:
        if not (place / part).is_dir():
            with zipfile.ZipFile(source / f"{part}.zip") as packed:
                packed.extractall(place / part)


def _manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
