"""Phantom spines: people scanned at two visits, with boxes around their vertebral bodies."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]

from unlabeled.demo.phantoms import write_manifest

nib: Any = import_module("nibabel")  # it carries no types
LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
ROOM = 16  # rows that a level takes [voxel]
DEPTH = 24  # from back to front [voxel]
SLICES = 3


def write_spines(
    folder: Path,
    *,
    subjects: int = 8,
    once: int = 0,
    levels: int = len(LEVELS),
    dims: int = 3,
    unseen: int = 0,
    strangers: bool = False,
    change: float = 1.0,
    seed: int = 0,
) -> Path:
    """Write two scans a person with a few sagittal slices, and a manifest with levels and boxes; give the manifest.

    A body is a bright rectangle that grows from level to level.  A person has a size, a brightness and a smooth texture of
    their own; a scan its noise, its gain and offset, its surroundings, and the spine's place.

    Parameters
    ----------
    folder
        Made when needed.
    subjects
        People with two visits.
    once
        Further people with a single one.
    levels
        Bodies of a spine, from the uppermost on.
    dims
        3, or 2 for pictures of the middle slice.
    unseen
        How many of `subjects` the manifest keeps for validation; without, it has no column `split`.
    strangers
        Give every second visit another person's spine: nothing can then be learnt of identity.
    change
        How much scans of one person differ: in surroundings, in brightness from back to front, in noise.
    seed
        Random start.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(subjects + once):
        person = _person(rng, levels)
        for visit in range(2 if number < subjects else 1):
            if strangers and visit:
                person = _person(rng, levels)
            array, boxes = _scan(person, rng, change)
            name = f"p{number:03d}-{visit}" + (".nii.gz" if dims == 3 else ".png")
            if dims == 2:  # upright, as a viewer shows it: rows from head to foot
                picture = array[SLICES // 2].T[::-1]
                Image.fromarray((picture / 4).astype(np.uint8)).save(folder / name)
                height = array.shape[2]
                boxes = [
                    (height - high, back, height - low, front)
                    for _, back, low, _, front, high in boxes
                ]
            else:
                affine = np.diag([4.0, 1.0, 1.0, 1.0])
                affine[:3, 3] = -10.0
                image = nib.Nifti1Image(array, affine)
                nib.save(image, folder / name)
            row = {
                "image": name,
                "subject": f"p{number:03d}",
                "study": f"visit {visit}",
                "level": ";".join(LEVELS[:levels]),
                "boxes": "; ".join(" ".join(map(str, box)) for box in boxes),
            }
            if unseen:
                row["split"] = "val" if subjects - unseen <= number < subjects else "train"
            rows.append(row)
    return write_manifest(folder / "spines.csv", rows)


def _person(rng: np.random.Generator, levels: int) -> list[NDArray[np.float64]]:
    """Draw the bodies of one person, ``depth height``."""
    wide, high, bright = rng.uniform(0.88, 1.15), rng.uniform(0.88, 1.15), rng.uniform(500, 620)
    bodies = []
    for level in range(levels):
        shape = round((8 + 0.9 * level) * wide), round(8.5 * high)
        texture = gaussian_filter(rng.normal(size=shape), 1.5)
        bodies.append(bright * (1 + 0.12 * texture / texture.std()))
    return bodies


def _scan(
    bodies: list[NDArray[np.float64]], rng: np.random.Generator, change: float
) -> tuple[NDArray[np.int16], list[tuple[int, ...]]]:
    """Lay bodies into a scan, the first one uppermost; give it with their boxes."""
    around = 160 + 60 * change * rng.uniform(-1, 1)
    array = np.full((SLICES, DEPTH, ROOM * len(bodies) + 4), around)
    boxes: list[tuple[int, ...]] = []
    across, up = int(rng.integers(-2, 3)), int(rng.integers(0, 5))
    for number, body in enumerate(reversed(bodies)):
        back = max(0, (DEPTH - body.shape[0]) // 2 + across)
        low = ROOM * number + up + 2
        body = body[: DEPTH - back, : array.shape[2] - low]
        array[:, back : back + body.shape[0], low : low + body.shape[1]] = body
        stop = (SLICES, back + body.shape[0], low + body.shape[1])
        boxes.append((0, back, low, *stop))
    slope = 0.25 * change * rng.uniform(-1, 1)
    array *= (1 + slope * np.linspace(-1, 1, DEPTH))[:, None] * rng.uniform(0.9, 1.1)
    array += rng.uniform(-30, 30) + rng.normal(scale=40 * change, size=array.shape)
    return array.clip(0, 1020).astype(np.int16), boxes[::-1]
