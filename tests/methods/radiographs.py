"""Real radiographs and a narrow network, for proofs that take a minute."""

from __future__ import annotations

import csv
import zipfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from unlabeled.nn.encoders import Encoder


class Narrow(Encoder):
    """Four convolutions, so that a proof takes a minute."""

    name = "narrow"
    entry = "stages.0.0"

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dims, self.in_channels = 2, in_channels
        self.channels = (16, 32, 64, 128)
        self.strides = tuple((2**stage,) * 2 for stage in range(1, 5))
        widths = (in_channels, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


def radiographs(shared_data: Path, folder: Path) -> Path:
    """Unpack the radiographs; the patients of the training part are learnt from, all others are held out."""
    source = shared_data / "chest-xray-longitudinal"
    for part in ("train", "val", "test"):
        with zipfile.ZipFile(source / f"{part}.zip") as packed:
            packed.extractall(folder / part)
    files = {path.name: path for path in folder.rglob("*.png")}
    with (source / "images.csv").open(newline="") as file:
        known = [row for row in csv.DictReader(file) if row["image"] in files]
    manifest = folder / "scans.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "subject", "split"])
        for row in known:
            split = "train" if row["split"] == "train" else "val"
            writer.writerow([files[row["image"]].relative_to(folder), row["patient_id"], split])
    return manifest


def notes(shared_data: Path, folder: Path) -> Path:
    """Unpack radiographs with their notes; give a manifest, the set's test part as held out."""
    source = shared_data / "chest-xray-notes-masks"
    with (source / "images.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    for part in ("train", "test"):
        with zipfile.ZipFile(source / f"{part}.zip") as packed:
            packed.extractall(folder / part)
    files = {path.stem: path for path in folder.rglob("images/*.png")}
    rows = [
        {
            "image": str(files[row["id"]].relative_to(folder)),
            "subject": row["patient"],
            "split": "train" if row["split"] == "train" else "val",
            "report": row["clinical_note"],
        }
        for row in known
    ]
    manifest = folder / "notes.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
