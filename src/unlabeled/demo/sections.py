"""Sections through a phantom of the cortex: half a cylinder whose layers change from place to place."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]

RADII = (0.72, 1.28)  # white matter below, air above; the surface lies at 1
LENGTH = 2.0  # of the cylinder, whose radius is 1
_DOTS = 0.7  # a pixel, where cells are densest
_GLASS, _WHITE = 0.95, 0.8


def write_sections(
    folder: Path,
    *,
    sections: int = 12,
    radius: int = 70,
    brain: str = "phantom",
    seed: int = 0,
) -> Path:
    """Write sections as PNG, maps of their depth as masks, the surface, and the manifest, which is given back.

    The cortex of section n is half a ring; along it, at the share u, and from section to section, at the share v, its
    layers move and thin out.  Each section has a stain of its own.  A way along the surface from one place to another
    measures ``sqrt((pi du)^2 + (2 dv)^2)``.

    Parameters
    ----------
    folder
        Where everything is written; ``surface.npz`` lies beside the manifest.
    sections
        How many.
    radius
        Of the surface [pixel].
    brain
        Whose they are.
    seed
        Of the cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wide, margin = 2 * round(1.4 * radius), round(0.15 * radius)
    tall = wide // 2 + margin
    middle = np.array([wide / 2 - 0.5, wide / 2 - 0.5])  # row and column of the axis
    rows, columns = np.indices((tall, wide))
    down, right = middle[0] - rows, columns - middle[1]
    far = np.hypot(down, right) / radius
    depth = np.clip((RADII[1] - far) / (RADII[1] - RADII[0]), 0, 1) * (down >= 0)
    u = np.clip(np.arctan2(down, -right) / np.pi, 0, 1)
    mask = np.where((far < RADII[0]) & (down >= 0), 255, np.rint(depth * 253))
    mask = np.where((depth > 0) & (depth < 1), np.clip(mask, 1, 253), mask).astype(np.uint8)
    listed = []
    for number in range(sections):
        v = (number + 0.5) / sections
        picture = _stain(depth, u, v, rng)
        picture = (picture - _GLASS) * rng.uniform(0.8, 1.2) + _GLASS
        name = f"{brain}-{number:03d}.png"
        Image.fromarray(np.clip(picture * 255, 0, 255).astype(np.uint8)).save(folder / name)
        Image.fromarray(mask).save(folder / f"{brain}-{number:03d}-depth.png")
        corner = ((-0.5 - middle[1]) / radius, (middle[0] + 0.5) / radius, LENGTH * v - 1)
        frame = (*corner, wide / radius, 0, 0, 0, -tall / radius, 0)
        listed.append(
            {
                "image": name,
                "mask": f"{brain}-{number:03d}-depth.png",
                "subject": brain,
                "position": " ".join(f"{each:.6g}" for each in frame),
            }
        )
    vertices, triangles = half_cylinder()
    np.savez(folder / "surface.npz", vertices=vertices, triangles=triangles)
    with (folder / "sections.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)
    return folder / "sections.csv"


def half_cylinder(
    around: int = 48, turns: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Make a cylinder of radius 1 and length 2, or a part of it: vertices, and triangles with nearly equal edges."""
    step = 2 * np.pi * turns / around
    levels = round(LENGTH / (step * np.sqrt(3) / 2)) + 1
    closed = turns == 1
    many = around if closed else around + 1
    heights = np.linspace(-1, 1, levels)
    angles = (np.arange(many)[None] + 0.5 * (np.arange(levels) % 2)[:, None]) * step
    if not closed:
        angles = angles.clip(0, 2 * np.pi * turns)
    points = np.stack(
        [-np.cos(angles), np.sin(angles), np.tile(heights[:, None], (1, many))], axis=-1
    )
    corners = []
    for level in range(levels - 1):
        for here in range(around):
            after = (here + 1) % many
            a, b, c, d = (level * many + here, level * many + after, 0, 0)
            c, d = a + many, b + many
            if level % 2 == 0:
                corners += [(a, b, c), (b, d, c)]
            else:
                corners += [(a, d, c), (a, b, d)]
    return points.reshape(-1, 3), np.array(corners)


def _stain(
    depth: NDArray[np.float64], u: NDArray[np.float64], v: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Scatter cells in three layers, whose limits and densities change with u and v, and blur them."""
    first, second = 0.15 + 0.3 * u, 0.55 + 0.3 * v
    dense = np.where(
        depth < first, 0.25 + 0.75 * v, np.where(depth < second, 1.0 - 0.8 * u, 0.1 + 0.7 * u)
    )
    dense = np.where((depth > 0) & (depth < 1), dense, np.where(depth >= 1, 0.05, 0.0))
    cells = rng.poisson(_DOTS * dense).astype(np.float64)
    base = np.where(depth > 0, _WHITE, _GLASS)
    stained: NDArray[np.float64] = base - 0.45 * gaussian_filter(cells, 0.7)
    return stained
