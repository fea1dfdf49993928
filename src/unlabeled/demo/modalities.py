"""Virtual patients in two contrasts, registered or not: what methods that learn across modalities can be tried on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.demo.phantoms import draw_phantom, write_image, write_manifest
from unlabeled.rng import derive

BODY = 0.15  # brightness above which a phantom is body: that of the air is noise about 0
NAMES = ("T1", "T2")  # stand for any two


def draw_contrasts(
    seed: int, shape: Sequence[int], *, noise: float = 0.03
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw one patient as two scanners see it: as a phantom is, and with bright and dark exchanged within the body.

    Parameters
    ----------
    seed
        Who it is.
    shape
        Voxels along each axis.
    noise
        Deviation of the noise, drawn anew for each.
    """
    plain = draw_phantom(seed, shape, noise=0.0).image
    rng = np.random.default_rng(derive(seed, "contrasts", *shape))
    other = np.where(plain > BODY, 1.3 - plain, plain)
    first, second = (
        (image + rng.normal(0.0, noise, image.shape)).astype(np.float32) for image in (plain, other)
    )
    return first, second


def write_modalities(
    folder: Path | str,
    *,
    patients: int,
    shape: Sequence[int] = (32, 32, 32),
    registered: bool = True,
    seed: int = 0,
) -> Path:
    """Write volumes of two contrasts as NIfTI, and the manifest that names them; give the manifest.

    Parameters
    ----------
    folder
        Receives the files.
    patients
        How many.
    shape
        Voxels along each of three axes.
    registered
        Whether each patient has both contrasts, registered; else they have one or the other in turn.
    seed
        Random start of the whole group.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        drawn = zip(NAMES, draw_contrasts(derive(seed, "patient", number), shape), strict=True)
        kept = [each for at, each in enumerate(drawn) if registered or at == number % 2]
        files = []
        for name, image in kept:
            files.append(f"patient-{number:03d}-{name}.nii.gz")
            levels = np.round(np.clip(image, 0.0, 1.4) * 180).astype(np.uint8)
            write_image(root / files[-1], levels)
        rows.append(
            {
                "image": ";".join(files),
                "modality": ";".join(name for name, _ in kept),
                "subject": f"patient-{number:03d}",
            }
        )
    return write_manifest(root / "scans.csv", rows)
