"""Frames of virtual endoscopic videos: red tissue, yellow fat and a grey instrument, inside a dark circle or not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def frame(seed: int, edge: int = 40, *, circle: bool = False) -> NDArray[np.uint8]:
    """Draw ``rows columns 3``: everything in it has the colour of its kind, a little changed from frame to frame."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, edge)] * 2, indexing="ij")
    waves = 0.08 * np.sin(rng.uniform(4, 8) * rows + rng.uniform(0, 6)) * np.cos(5 * columns)
    image = np.stack([0.75 + waves, 0.32 + waves, 0.28 + waves], axis=-1)
    at = rng.uniform(-0.5, 0.5, 2)
    fat = (rows - at[0]) ** 2 + (columns - at[1]) ** 2 < 0.12
    image[fat] = np.array([0.85, 0.75, 0.35]) + waves[fat, None]
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
    bar = np.abs(rows * np.cos(angle) + columns * np.sin(angle) - offset) < 0.15
    image[bar] = 0.55 + 2 * waves[bar, None]
    image += rng.normal(0, 0.01, (edge, edge, 1))
    if circle:
        image[rows**2 + columns**2 > 0.95] = 0.01
    levels: NDArray[np.uint8] = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return levels


def instrument(seed: int, edge: int = 40) -> NDArray[np.uint8]:
    """Draw where the instrument of `frame` is: 1 on it, else 0."""
    levels = frame(seed, edge).astype(int)
    grey: NDArray[np.uint8] = (levels.max(-1) - levels.min(-1) < 8).astype(np.uint8)
    return grey


def write_frames(
    folder: Path, *, videos: int = 8, each: int = 1, edge: int = 40, circle: bool = False
) -> Path:
    """Write frames of some videos, square with an edge of so many pixels, with a manifest; give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(videos * each):
        name = f"frame{number:03d}.png"
        Image.fromarray(frame(number, edge, circle=circle)).save(folder / name)
        rows.append({"image": name, "subject": f"video{number // each}"})
    manifest = folder / "frames.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
