"""Small made-up patients for tests and examples: ellipsoids in a fixed layout, pictures of them, and a CT in HU."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unlabeled import rng as places
from unlabeled.errors import DataError

nib: Any = import_module("nibabel")  # it carries no types

LABELS: dict[int, str] = {0: "background", 1: "left organ", 2: "right organ"}

# centre (share of each edge), radius (share of each edge), brightness, label: the last two axes are free in 2D
_BODY = ((0.50, 0.50, 0.50), (0.42, 0.40, 0.44), 0.35, 0)
_ORGANS = (
    ((0.33, 0.48, 0.55), (0.13, 0.19, 0.24), 0.75, 1),
    ((0.67, 0.52, 0.45), (0.12, 0.15, 0.20), 0.60, 2),
    ((0.50, 0.24, 0.50), (0.07, 0.07, 0.42), 1.00, 0),  # spine: tells front from back
    ((0.52, 0.74, 0.68), (0.10, 0.07, 0.09), 0.12, 0),  # air: tells top from bottom
)


@dataclass(frozen=True)
class Phantom:
    """One made-up patient.

    Parameters
    ----------
    image
        Brightness ``*space``, about 0 to 1.
    mask
        Label of each voxel ``*space``; `LABELS` names them.
    spacing
        Voxel edge lengths [mm].
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    spacing: tuple[float, ...]


def draw_phantom(
    seed: int, shape: Sequence[int] = (32, 32, 32), *, noise: float = 0.03, travel: float = 0.02
) -> Phantom:
    """Draw a patient: a body with organs that keep their layout, moved and stretched a little.

    Parameters
    ----------
    seed
        Random start: who it is.
    shape
        Voxels along each of two or three axes.
    noise
        Deviation of the noise.
    travel
        Spread of each organ's place and size, as a share of the edges.

    Returns
    -------
    Phantom
        Image, label map and spacing; in two axes a cut through the middle.
    """
    dims = len(shape)
    if dims not in (2, 3) or min(shape) < 4:
        raise DataError(
            f"a phantom of shape {'x'.join(map(str, shape))} cannot be drawn",
            "Give two or three edges of at least 4 voxels.",
        )
    rng = np.random.default_rng(places.derive(seed, "phantom", *shape))
    axes = [(np.arange(edge, dtype=np.float32) + 0.5) / edge for edge in shape]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    image = np.zeros(shape, np.float32)
    mask = np.zeros(shape, np.uint8)
    pose = rng.normal(0.0, travel, 3)
    for centre, radius, brightness, label in (_BODY, *_ORGANS):
        middle = np.add(centre, pose) + rng.normal(0.0, travel / 2, 3)
        reach = np.multiply(radius, np.exp(rng.normal(0.0, 2 * travel, 3)))
        far = sum(
            (((axis - middle[i]) / reach[i]) ** 2 for i, axis in enumerate(grid)),
            start=np.zeros(shape, np.float32),
        )
        inside = far <= 1.0
        image[inside] = brightness
        mask[inside] = label
    image += rng.normal(0.0, noise, shape).astype(np.float32)
    return Phantom(image, mask, (1.0,) * dims)


def draw_ct(seed: int, shape: tuple[int, int, int] = (32, 32, 24)) -> NDArray[np.int16]:
    """Draw a chest-like volume ``*space`` of 16-bit integers [HU]: air, lungs, soft tissue, a spine.

    >>> volume = draw_ct(0)
    >>> volume.dtype, int(volume.min()) >= -1024, int(volume.max()) > 500
    (dtype('int16'), True, True)
    """
    phantom = draw_phantom(seed, shape, noise=0.0)
    rng = np.random.default_rng(places.derive(seed, "ct", *shape))
    body = phantom.image > 0.0
    units = np.where(body, 40.0, -1000.0)
    units[phantom.mask > 0] = -820.0
    units[phantom.image > 0.9] = 700.0
    noisy = units + rng.normal(0.0, 12.0, shape)
    return np.clip(np.round(noisy), -1024, 3071).astype(np.int16)


def write_patients(
    folder: Path | str,
    *,
    patients: int,
    shape: Sequence[int] = (32, 32, 32),
    labelled: bool = False,
    kind: Literal["brightness", "ct"] = "brightness",
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write patients as NIfTI (three axes) or PNG (two), with label maps on demand.

    Parameters
    ----------
    folder
        Receives the files, or ``images/`` and ``labels/`` when `labelled`.
    patients
        How many; each has its own seed.
    shape
        Voxels along each axis.
    labelled
        Whether to write label maps too.
    kind
        ``ct`` writes 16-bit HU volumes.
    seed
        Random start of the whole group.

    Returns
    -------
    tuple[Path, ...]
        The images, in order.
    """
    root = Path(folder)
    images, labels = (root / "images", root / "labels") if labelled else (root, root)
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if len(shape) == 3 else ".png"
    written = []
    for number in range(patients):
        own = places.derive(seed, "patient", number)
        phantom = draw_phantom(own, shape)
        array: NDArray[Any] = np.round(np.clip(phantom.image, 0.0, 1.2) * 200).astype(np.uint8)
        if len(shape) == 3 and kind == "ct":
            array = draw_ct(own, (shape[0], shape[1], shape[2]))
        path = images / f"phantom-{number:03d}{suffix}"
        write_image(path, array)
        if labelled:
            write_image(labels / path.name, phantom.mask)
        written.append(path)
    return tuple(written)


def write_manifest(path: Path | str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a manifest: one row a scan, columns in order of first appearance, empty where a row has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return target


def write_image(path: Path, array: NDArray[Any]) -> None:
    """Write an array as NIfTI (three axes, 1 mm, about the origin) or as a picture (two)."""
    if array.ndim == 2:
        Image.fromarray(array).save(path)
        return
    image = nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0]) + _corner(array.shape))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _corner(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Place the volume's middle at the world's origin: an affine that is not the identity."""
    move = np.zeros((4, 4))
    move[:3, 3] = -(np.asarray(shape) - 1) / 2
    return move
