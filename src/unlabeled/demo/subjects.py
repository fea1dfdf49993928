"""A phantom subject: a brain that looks at coloured discs, for methods that learn from pictures and responses."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELL = 4  # [pixel]; a voxel reads means over squares of this edge
DENSITY = 0.05  # share of all means that a voxel reads


def write_subject(
    folder: Path,
    *,
    pairs: int = 80,
    held_out: int = 20,
    tested: int = 0,
    loose: int = 100,
    repeats: int = 6,
    voxels: int = 150,
    edge: int = 32,
    noise: float = 0.6,
    mixed: bool = False,
    seed: int = 0,
) -> Path:
    """Write pictures, runs of responses and a manifest; give the manifest.

    A voxel adds up a few colours of 4 x 4 pixels with random weights, is standardised over the pictures of its run, and
    is measured with noise.

    Parameters
    ----------
    folder
        Made when needed.
    pairs, held_out, tested
        Pictures with responses: for training, shown once; for validation and test, shown `repeats` times.
    loose
        Pictures without.
    repeats
        How often pictures of validation and test are shown.
    voxels
        Of a response.
    edge
        Rows and columns of the pictures [pixel]; a multiple of 4.
    noise
        Deviation of the noise, in deviations of the response.
    mixed
        Give the pictures for training each other's responses: nothing can then be learnt from pairs.
    seed
        Random start.
    """
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    means = (edge // CELL) ** 2 * 3
    weights = rng.normal(size=(means, voxels)) * (rng.random((means, voxels)) < DENSITY)
    rows: list[tuple[str, str, str]] = []
    parts = {"train": (pairs, 1), "val": (held_out, repeats), "test": (tested, repeats)}
    for split, (count, shown) in parts.items():
        if not count:
            continue
        seen = [draw_discs(rng, edge) for _ in range(count)]
        answers = np.array([_pool(picture) for picture in seen]) @ weights
        answers = (answers - answers.mean(axis=0)) / (answers.std(axis=0) + 1e-9)
        run = [answers + noise * rng.normal(size=answers.shape) for _ in range(shown)]
        np.save(folder / f"{split}.npy", np.concatenate(run).astype(np.float32))
        order = rng.permutation(count) if mixed and split == "train" else np.arange(count)
        for number, picture in enumerate(seen):
            samples = [f"{split}.npy#{order[number] + count * again}" for again in range(shown)]
            name = _save(picture, folder, f"{split}{number:04d}")
            rows.append((name, ";".join(samples), split))
    others = (_save(draw_discs(rng, edge), folder, f"loose{number:04d}") for number in range(loose))
    rows += [(name, "", "train") for name in others]
    return write_manifest(folder / "subject.csv", rows)


def write_manifest(path: Path, rows: Iterable[tuple[str, str, str]]) -> Path:
    """Write rows of picture, responses and split."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "response", "split"))
        writer.writerows(rows)
    return path


def draw_discs(rng: np.random.Generator, edge: int, count: int = 3) -> NDArray[np.uint8]:
    """Draw discs of random place, size and colour on grey: ``rows columns 3``."""
    rows, columns = np.mgrid[:edge, :edge]
    picture = np.full((edge, edge, 3), 40, np.uint8)
    for _ in range(count):
        row, column = rng.uniform(edge / 8, edge * 7 / 8, 2)
        radius = rng.uniform(edge / 10, edge / 4)
        picture[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = rng.integers(0, 256, 3)
    return picture


def _pool(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Average squares of the picture: all means, colour last."""
    cells = len(picture) // CELL
    means: NDArray[np.float64] = picture.reshape(cells, CELL, cells, CELL, 3).mean(axis=(1, 3))
    return means.ravel() / 255


def _save(picture: NDArray[np.uint8], folder: Path, stem: str) -> str:
    name = f"pictures/{stem}.png"
    Image.fromarray(picture).save(folder / name)
    return name
