"""Stereo pairs of a virtual scene: a textured wall, and a disc before it whose shading tells its depth."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom  # type: ignore[attr-defined]

FAR, NEAR = 0.03, 0.09  # disparities, in fractions of the width


class Scene(NamedTuple):
    """Both pictures ``rows columns 3`` as levels, disparity as a fraction of the width, and the disc, ``rows columns``."""

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    disparity: NDArray[np.float64]
    disc: NDArray[np.uint8]


def scene(seed: int, shape: tuple[int, int] = (48, 64)) -> Scene:
    """Draw the right picture, and read the left one from it: ``left(x) = right(x - disparity * width)``."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(float)
    middle = rng.uniform(0.35, 0.65, 2) * shape
    radius = rng.uniform(0.2, 0.3) * min(shape)
    far = np.hypot(y - middle[0], x - middle[1]) / radius
    bump = np.exp(-(far**4))
    disparity = FAR + (NEAR - FAR) * bump
    texture = np.zeros((rows, columns, 3))
    for edge, strength in ((4, 0.2), (8, 0.2), (16, 0.2)):
        coarse = rng.uniform(-1, 1, (rows // edge + 2, columns // edge + 2, 3))
        fine = zoom(coarse, (edge, edge, 1), order=1)
        texture += strength * fine[:rows, :columns]
    seen = x - disparity * columns
    lit = np.stack([np.interp(x[0], at, of) for at, of in zip(seen, bump, strict=True)])
    right = 0.45 + texture / 2 + 0.25 * lit[..., None]  # as the right eye sees the bump
    left = np.zeros_like(right)
    for row in range(rows):
        for colour in range(3):
            left[row, :, colour] = np.interp(seen[row], x[0], right[row, :, colour])
    one, other = ((each.clip(0, 1) * 255).round().astype(np.uint8) for each in (left, right))
    return Scene(one, other, disparity, (far < 1).astype(np.uint8))


def write_stereo(
    folder: Path,
    *,
    objects: int = 4,
    patients: int = 4,
    each: int = 1,
    shape: tuple[int, int] = (48, 64),
    masks: bool = True,
) -> Path:
    """Write pairs of routine objects, and of patients with labelled single frames beside them; give the manifest.

    Parameters
    ----------
    folder
        Made where it is absent.
    objects
        Pairs of routine objects, each of an owner of its own; their study is ``objects``.
    patients, each
        How many, and how many pairs and labelled frames of each.
    shape
        Rows and columns [pixel].
    masks
        Whether there are labelled frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    scenes = [(f"object{n}", "objects") for n in range(objects)]
    scenes += [(f"patient{n}", "knee") for n in range(patients) for _ in range(each)]
    for number, (subject, study) in enumerate(scenes):
        drawn = scene(number, shape)
        names = [f"{side}{number:03d}.png" for side in ("left", "right")]
        for name, levels in zip(names, drawn[:2], strict=True):
            Image.fromarray(levels).save(folder / name)
        row = {"image": ";".join(names), "subject": subject, "study": study, "mask": ""}
        table.append(row)
        if masks and study == "knee":
            frame = scene(10_000 + number, shape)
            name, mask = f"frame{number:03d}.png", f"mask{number:03d}.png"
            Image.fromarray(frame.left).save(folder / name)
            Image.fromarray(frame.disc).save(folder / mask)
            table.append({"image": name, "subject": subject, "study": study, "mask": mask})
    manifest = folder / "stereo.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return manifest
