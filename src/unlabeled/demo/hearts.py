"""Small made-up studies of hearts for tests and examples: a short-axis stack and two long-axis planes of one body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled import rng as places
from unlabeled.demo.phantoms import write_manifest

nib: Any = import_module("nibabel")  # it carries no types

LABELS: dict[int, str] = {0: "background", 1: "cavity", 2: "myocardium", 3: "right ventricle"}
APEX = (-0.62, 0.62, -0.48)  # where a human heart points, RAS


@dataclass(frozen=True, eq=False)
class Body:
    """One made-up heart in the scanner.

    Parameters
    ----------
    axes
        Rows: to the right ventricle, to the anterior wall, to the base; of length 1, RAS+ world.
    centre
        Middle of the left ventricle [mm].
    radius
        Of its cavity [mm]; the other sizes follow.
    texture
        Waves of what surrounds it: ``wave 4``, three numbers of a direction [1/mm] and a phase.
    """

    axes: NDArray[np.float64]
    centre: NDArray[np.float64]
    radius: float
    texture: NDArray[np.float64]

    def parts(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Give brightness and label of points ``*any 3`` [mm]."""
        x, y, z = np.moveaxis((points - self.centre) @ self.axes.T / self.radius, -1, 0)
        within = z < 1.5  # the valves
        narrow = 1 - ((z - 1.5) / 4.0) ** 2  # towards the apex
        left = (x**2 + y**2 < narrow) & within
        wall = (x**2 + y**2 < 2.1 * narrow + 0.1) & within & ~left
        right = ((x - 1.1) ** 2 + (y / 1.5) ** 2 < 1.3 * narrow) & within & ~wall & ~left
        waves = points @ self.texture[:, :3].T + self.texture[:, 3]
        bright = 0.4 + 0.18 * np.sin(waves).mean(-1)
        labels = np.zeros(bright.shape, np.uint8)
        for number, (part, value) in enumerate(((left, 0.9), (wall, 0.15), (right, 0.8)), start=1):
            bright[part], labels[part] = value, number
        return bright, labels


def draw_body(seed: int, *, apex: Sequence[float] = APEX, tilt: float = 0.15) -> Body:
    """Draw a heart: its direction, place and size differ from one to the next.

    Parameters
    ----------
    seed
        Random start: whose it is.
    apex
        Usual direction of the apex, RAS+ world, any length.
    tilt
        Deviation of the heart's axes, each by itself, of length 1.
    """
    draw = np.random.default_rng(places.derive(seed, "heart"))
    base = -np.asarray(apex) / np.linalg.norm(apex) + tilt * draw.standard_normal(3)
    base /= np.linalg.norm(base)
    right = np.array([1.0, 1.0, 0.0]) / np.sqrt(2) + tilt * draw.standard_normal(3)
    right -= base * (right @ base)
    right /= np.linalg.norm(right)
    anterior = np.cross(base, right)
    anterior *= np.sign(anterior @ (0.0, 1.0, 1.0))
    waves = np.concatenate(
        [draw.normal(0, 0.09, (5, 3)), draw.uniform(0, 2 * np.pi, (5, 1))], axis=1
    )
    centre = draw.normal(0, 20, 3)
    return Body(np.stack([right, anterior, base]), centre, float(draw.uniform(18, 24)), waves)


def view(
    body: Body,
    across: str,
    seed: int,
    *,
    edge: int = 64,
    pixel: float = 2.5,
    slices: int = 6,
    gap: float = 10.0,
    turn: float = 0.6,
    shift: float = 18.0,
    noise: float = 0.08,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """Image a heart.

    Parameters
    ----------
    body
        What is imaged.
    across
        ``sa``, ``2ch`` or ``4ch``.
    seed
        Random start of place, angle and noise.
    edge, pixel
        Pixels along both axes of an image, and from one to the next [mm].
    slices, gap
        Of the short-axis stack, and from one to the next [mm]; a long-axis image is one slice.
    turn
        Largest angle to either side by which an image lies aside in its plane [radian].
    shift
        Deviation of the image's middle from the heart's [mm].
    noise
        Deviation.

    Returns
    -------
    tuple
        Image and labels ``column row slice`` and affine to the RAS+ world.
    """
    draw = np.random.default_rng(places.derive(seed, "view", across))
    right, anterior, base = body.axes
    one, other, normal = {
        "sa": (-right, -anterior, -base),
        "2ch": (anterior, base, right),
        "4ch": (right, base, anterior),
    }[across]
    count = slices if across == "sa" else 1
    angle = draw.uniform(-turn, turn)
    columns = np.cos(angle) * one + np.sin(angle) * other
    rows = np.cos(angle) * other - np.sin(angle) * one
    affine = np.eye(4)
    affine[:3, :3] = np.stack([columns * pixel, rows * pixel, normal * gap], 1)
    middle = body.centre + shift * (draw.normal() * one + draw.normal() * other)
    affine[:3, 3] = middle - affine[:3, :3] @ ([(edge - 1) / 2] * 2 + [(count - 1) / 2])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (edge, edge, count)), indexing="ij"), -1)
    bright, labels = body.parts(index @ affine[:3, :3].T + affine[:3, 3])
    image = bright + noise * draw.standard_normal(bright.shape)
    return image.astype(np.float32), labels, affine


def write_hearts(
    folder: Path | str,
    *,
    studies: int = 4,
    seed: int = 0,
    labelled: bool = False,
    apex: Sequence[float] = APEX,
    turn: float = 0.6,
    **size: Any,
) -> Path:
    """Write studies as a person would have them: a folder each with ``sa``, ``la_2ch`` and ``la_4ch``.

    Parameters
    ----------
    folder
        Where to write.
    studies
        How many.
    seed
        Random start.
    labelled
        Whether to write masks of the short-axis stacks, and a manifest that names them.
    apex, turn, **size
        As in `draw_body` and `view`.

    Returns
    -------
    Path
        What a person would type: the folder, or the manifest ``labelled.csv``.
    """
    root = Path(folder)
    rows = []
    for number in range(studies):
        name = f"heart{number:03d}"
        place = root / name
        place.mkdir(parents=True, exist_ok=True)
        whose = seed * 10_000 + number
        body = draw_body(whose, apex=apex)
        for across, file in (("sa", "sa"), ("2ch", "la_2ch"), ("4ch", "la_4ch")):
            image, labels, affine = view(body, across, whose, turn=turn, **size)
            levels = np.clip(image * 1000, 0, 4000).astype(np.int16)
            nib.save(nib.Nifti1Image(levels, affine), place / f"{file}.nii.gz")
            row = {"image": f"{name}/{file}.nii.gz", "subject": name, "mask": ""}
            if labelled and across == "sa":
                masks = root / "masks"
                masks.mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(labels, affine), masks / f"{name}.nii.gz")
                row["mask"] = f"masks/{name}.nii.gz"
            rows.append(row)
    if not labelled:
        return root
    return write_manifest(root / "labelled.csv", rows)
