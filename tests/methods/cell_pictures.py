"""Pictures of bright round cells on an uneven ground, their masks, and a coarse segmenter that errs at boundaries."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter

from unlabeled.transforms.coarse import otsu

#: What `--coarse` takes to use `shrunken`.
SHRUNKEN = "cell_pictures:shrunken"


def draw_cells(number: int, edge: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a picture of 5 to 8 cells with noise of 0.05, and the mask of the cells."""
    rng = np.random.default_rng([7, number])
    field = gaussian_filter(rng.normal(size=(edge, edge)), edge / 5)
    ground = 0.2 + 0.1 * (field - field.min()) / np.ptp(field)
    rows, columns = np.mgrid[:edge, :edge]
    mask = np.zeros((edge, edge), bool)
    for _ in range(rng.integers(5, 9)):
        radius, (row, column) = rng.uniform(4, 7), rng.uniform(6, edge - 6, 2)
        cell = np.hypot(rows - row, columns - column) < radius
        ground[cell] = rng.uniform(0.6, 0.85)
        mask |= cell
    noisy = gaussian_filter(ground, 0.7) + rng.normal(0, 0.05, (edge, edge))
    return (255 * noisy.clip(0, 1)).astype(np.uint8), mask


def write_cells(folder: Path, count: int, first: int = 0, edge: int = 64) -> Path:
    """Write pictures, masks and the manifest ``scans.csv`` that names both; give it."""
    for place in ("pictures", "truth"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    with (folder / "scans.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask"])
        for number in range(first, first + count):
            picture, mask = draw_cells(number, edge)
            name = f"c{number:03}.png"
            Image.fromarray(picture).save(folder / "pictures" / name)
            Image.fromarray(mask.astype(np.uint8)).save(folder / "truth" / name)
            rows.writerow([f"pictures/{name}", f"truth/{name}"])
    return folder / "scans.csv"


def shrunken(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find bright cells two pixels too small all around: smoothed, Otsu's threshold, eroded."""
    smooth = gaussian_filter(grey, 0.7)
    found: NDArray[np.bool_] = binary_erosion(smooth > otsu(smooth), iterations=2)
    return found
