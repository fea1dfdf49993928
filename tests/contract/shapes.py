"""Pictures of a few shapes and sentences that name them: what methods that read reports can be tried on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ("disc", "square", "cross")
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "central", "right")
EDGE = 64  # [pixel]
CELL = EDGE // 3


@dataclass(frozen=True)
class Thing:
    """One shape in one of nine cells."""

    shape: str
    row: int
    column: int
    large: bool
    bright: bool

    @property
    def sentence(self) -> str:
        size, tone = "large" if self.large else "small", "bright" if self.bright else "faint"
        return f"{size} {tone} {self.shape} in {COLUMNS[self.column]} {ROWS[self.row]} zone"

    def mask(self) -> np.ndarray:
        """Which pixels it covers."""
        y, x = np.mgrid[:EDGE, :EDGE].astype(float)
        y, x = y - (self.row + 0.5) * CELL, x - (self.column + 0.5) * CELL
        radius = 9 if self.large else 5
        if self.shape == "disc":
            return y**2 + x**2 <= radius**2
        inside = (abs(y) <= radius) & (abs(x) <= radius)
        if self.shape == "square":
            return inside & (abs(y) <= 0.85 * radius) & (abs(x) <= 0.85 * radius)
        return inside & ((abs(y) <= radius / 4) | (abs(x) <= radius / 4))


def draw_things(seed: int, most: int = 3) -> list[Thing]:
    """Draw one to so many things in cells of their own."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)[: rng.integers(1, most + 1)]
    return [
        Thing(
            SHAPES[rng.integers(3)], cell // 3, cell % 3, *(bool(b) for b in rng.integers(0, 2, 2))
        )
        for cell in cells.tolist()
    ]


def picture(things: list[Thing], seed: int) -> np.ndarray:
    """Draw a noisy picture ``rows columns``, 8 bits."""
    image = np.random.default_rng([seed, 1]).normal(60, 6, (EDGE, EDGE))
    for thing in things:
        image[thing.mask()] += 130 if thing.bright else 60
    return image.clip(0, 255).astype(np.uint8)


def write_shapes(folder: Path, count: int, first: int = 0, most: int = 3) -> Path:
    """Write pictures and a manifest with a report of each, one sentence a thing; give the manifest."""
    rows = []
    for seed in range(first, first + count):
        things = draw_things(seed, most)
        name = f"shapes{seed:04d}.png"
        Image.fromarray(picture(things, seed)).save(folder / name)
        report = ".\n".join(thing.sentence.capitalize() for thing in things) + "."
        rows.append(
            {"image": name, "subject": f"s{seed:04d}", "report": report, "label": things[0].shape}
        )
    manifest = folder / "shapes.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
