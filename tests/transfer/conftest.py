"""Small labelled data sets made on the spot: bright balls in noise, as files that the readers and the store take."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Record, Store


def ball(space: Sequence[int], centre: Sequence[float], radius: float) -> np.ndarray:
    grids = np.meshgrid(*[np.arange(n) for n in space], indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2


def volume(
    seed: int, space: Sequence[int] = (20, 22, 18), values: Sequence[int] = (1, 2)
) -> tuple[np.ndarray, np.ndarray]:
    """A dim and a bright ball side by side in noise, and their labels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(space, np.uint8)
    middle = np.array(space) / 2 + rng.uniform(-1, 1, 3)
    aside = np.array([4.0, 0.0, 0.0])
    mask[ball(space, middle - aside, 3.5)] = values[0]
    mask[ball(space, middle + aside, 3.5)] = values[-1]
    image = 100 + 10 * rng.standard_normal(space)
    image[mask == values[0]] += 150
    image[mask == values[-1]] += 300
    return np.clip(image, 0, None).astype(np.int16), mask


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    affine = affine.copy()
    if np.array_equal(affine, np.eye(4)):
        affine[:3, 3] = -5.0
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def phantoms() -> SimpleNamespace:
    """Makers of arrays and files."""
    return SimpleNamespace(ball=ball, volume=volume, write_volume=write_volume)


@pytest.fixture
def balls(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with images/ and labels/ of so many subjects."""

    def make(subjects: int = 8, name: str = "balls", **how: Any) -> Path:
        root = tmp_path / name
        for number in range(subjects):
            image, mask = volume(number, **how)
            write_volume(root / "images" / f"p{number:02d}.nii.gz", image)
            write_volume(root / "labels" / f"p{number:02d}.nii.gz", mask)
        return root

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures with a class that a brightness gradient tells, and their manifest."""

    def make(subjects: int = 12, *, split: bool = True, target: bool = False) -> Path:
        root = tmp_path / "pictures"
        root.mkdir()
        rows = []
        for number in range(subjects):
            rng = np.random.default_rng(number)
            left = number % 2 == 0
            ramp = np.linspace(0, 150, 48) if left else np.linspace(150, 0, 40 + 8)
            picture = np.clip(50 + ramp[:, None] + 10 * rng.standard_normal((48, 40)), 0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(root / f"x{number:02d}.png")
            row = {
                "image": f"x{number:02d}.png",
                "subject": f"s{number:02d}",
                "label": "up" if left else "down",
            }
            if split:
                row["split"] = ("train", "train", "train", "train", "val", "test")[number // 2 % 6]
            if target:
                row["target"] = str(10.0 + number % 2)
            rows.append(row)
        manifest = root / "manifest.csv"
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return manifest

    return make


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[Record, ...]]:
    """Index and prepare a labelled data set."""

    def make(
        path: Path, *, spacing: Sequence[float] | None = None, labelled: bool = True
    ) -> tuple[Record, ...]:
        cache = tmp_path / "cache"
        index = index_scans(path, labelled=labelled, cache=cache)
        done = Store(cache, spacing=spacing).prepare(index.sources, rule=IntensityRule())
        assert not done.quarantine
        return done.records

    return make


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """Use two threads here alone: sums of other tests are compared bit for bit with those of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
