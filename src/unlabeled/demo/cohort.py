"""A cohort of virtual patients, made from the real MNI152 template and its tissue maps without any download.

Each patient is the template's anatomy under a random smooth invertible deformation, seen by a random scanner: contrast,
bias field, Rician noise, head tilt, voxel size, file orientation and number type differ from file to file.  The patients
are virtual: what is learnt from them says that the chain from files to a verdict works, not how well a method does in
a clinic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates  # type: ignore[attr-defined]

from unlabeled import rng as places
from unlabeled.demo.deformation import Lattice, draw_deformation, rotation
from unlabeled.errors import DataError

nib: Any = import_module("nibabel")  # it carries no types

LABELS: dict[int, str] = {0: "background", 1: "grey", 2: "white"}
_LOW, _HIGH = (-96.0, -132.0, -96.0), (96.0, 100.0, 108.0)  # box of the deformations [mm]
_CENTRE = np.array([0.0, -18.0, 6.0])  # middle of the template's brain [mm]
_EXTENT = np.array([184.0, 224.0, 184.0])  # field of view of every scan [mm]
_ORIENTATIONS = ("RAS", "LAS", "PSR", "LPS", "RAS", "ASL")


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How much scanners differ: standard deviations, and shares of the scans.

    Parameters
    ----------
    contrast
        Spread of each tissue's brightness, as a share of the range of all.
    inverted
        Share of scans in which fluid is bright and white matter dark, as in T2 weighting.
    bias
        Spread of the logarithm of the smooth gain across the head.
    noise
        Largest deviation of the noise in each of the two channels, as a share of white matter's brightness.
    other_spacing
        Share of scans whose voxels are flat, with another edge length in each direction.
    tilt
        Spread of the head's rotation about each axis [degree].
    """

    contrast: float = 0.07
    inverted: float = 0.25
    bias: float = 0.22
    noise: float = 0.10
    other_spacing: float = 0.25
    tilt: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Where the files of a virtual cohort lie.

    Parameters
    ----------
    scans
        Folder of scans without labels.
    labelled
        Folder with ``images/`` and ``labels/`` of equal names, and ``dataset.json`` with the names of the labels.
    subjects, labelled_subjects
        How many patients each holds; nobody is in both.
    spacing
        Voxel edge length of most scans [mm].
    """

    scans: Path
    labelled: Path
    subjects: int
    labelled_subjects: int
    spacing: float


@dataclass(frozen=True)
class _Atlas:
    """The template and its tissue maps on one grid."""

    head: NDArray[np.float32]  # T1 brightness, 0 outside, median of white matter 1
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    to_voxel: NDArray[np.float64]  # world [mm] to voxel index, 4x4


def make_cohort(
    folder: Path | str,
    *,
    subjects: int = 24,
    labelled: int = 16,
    seed: int = 0,
    spacing: float = 4.0,
    scanner: Scanner | None = None,
) -> Cohort:
    """Write a cohort of virtual patients as NIfTI files; the same arguments give the same voxels.

    Parameters
    ----------
    folder
        Receives ``scans/`` and ``labelled/``; made where missing.
    subjects
        Patients without labels, one scan each, in ``scans/``.
    labelled
        Further patients with label maps, in ``labelled/images`` and ``labelled/labels``: 0 background, 1 grey
        matter, 2 white matter.
    seed
        Random start.
    spacing
        Voxel edge length of most scans [mm], 2 to 8.
    scanner
        How much the scans differ; the default is a hard, mixed archive.

    Returns
    -------
    Cohort
        Where the files lie.

    Raises
    ------
    DataError
        When nilearn, which ships the template, is not installed, or when `spacing` is outside its range.
    """
    if not 2.0 <= spacing <= 8.0:
        raise DataError(
            f"voxels of {spacing:g} mm are outside the range of the virtual cohort",
            "Choose a spacing of 2 to 8 mm.",
        )
    if subjects < 0 or labelled < 0 or subjects + labelled == 0:
        raise DataError(
            f"a cohort of {subjects} unlabelled and {labelled} labelled patients is empty",
            "Ask for at least one patient.",
        )
    scanner = scanner or Scanner()
    atlas = _load_atlas(spacing)
    root = Path(folder)
    cohort = Cohort(
        scans=root / "scans",
        labelled=root / "labelled",
        subjects=subjects,
        labelled_subjects=labelled,
        spacing=spacing,
    )
    images, labels = cohort.labelled / "images", cohort.labelled / "labels"
    for place in (cohort.scans, images, labels):
        place.mkdir(parents=True, exist_ok=True)
    for number in range(subjects + labelled):
        rng = np.random.default_rng(places.derive(seed, "cohort", number))
        image, mask, affine = _draw_patient(atlas, spacing, scanner, rng)
        name = f"virtual-{number + 1:03d}.nii.gz"
        order = _ORIENTATIONS[number % len(_ORIENTATIONS)]
        if number < subjects:
            _write_image(cohort.scans / name, image, affine, order, number)
        else:
            _write_image(images / name, image, affine, order, number)
            _write(labels / name, mask, affine, order)
    description = {
        "name": "Virtual patients from the MNI152 template",
        "description": "Deformed template anatomy with simulated contrast, bias field and noise; no real patient.",
        "channel_names": {"0": "MR"},
        "labels": {name: value for value, name in LABELS.items()},
        "file_ending": ".nii.gz",
        "numTraining": labelled,
    }
    (cohort.labelled / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    return cohort


def _load_atlas(spacing: float) -> _Atlas:
    """Load the template and its tissue maps about as fine as the scans will be."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise DataError(
            "the virtual cohort is made from the MNI152 template that nilearn ships, and nilearn is not installed",
            "Install it: pip install 'unlabeled[demo]'",
        ) from error
    fine = int(spacing)
    head = datasets.load_mni152_template(resolution=fine)
    maps = [datasets.load_mni152_gm_template(fine), datasets.load_mni152_wm_template(fine)]
    voxels, grey, white = (
        np.clip(image.get_fdata(dtype=np.float32), 0.0, None) for image in (head, *maps)
    )
    voxels = voxels / np.median(voxels[white > 0.9])
    return _Atlas(voxels, grey, white, np.linalg.inv(head.affine))


def _draw_patient(
    atlas: _Atlas, spacing: float, scanner: Scanner, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """Draw anatomy and scanner of one patient: image and label map ``*space`` in RAS, and their affine [mm]."""
    deformation = draw_deformation(Lattice(_LOW, _HIGH, 8.0), rng)
    edges = np.full(3, spacing)
    if rng.random() < scanner.other_spacing:
        edges *= np.array([0.9, 0.9, 1.25])
    shape = np.ceil(_EXTENT / edges).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng.normal(0.0, scanner.tilt, 3)) @ np.diag(edges)
    affine[:3, 3] = _CENTRE - affine[:3, :3] @ ((shape - 1) / 2) + rng.normal(0.0, 3.0, 3)
    voxels = np.indices(tuple(shape), dtype=np.float64)
    world = np.tensordot(affine[:3, :3], voxels, axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    anatomy = deformation(world)
    sites = np.tensordot(atlas.to_voxel[:3, :3], anatomy, axes=1)
    sites += atlas.to_voxel[:3, 3].reshape(3, 1, 1, 1)
    head, grey, white = (
        map_coordinates(part, sites, order=1, mode="constant", prefilter=False)
        for part in (atlas.head, atlas.grey, atlas.white)
    )
    rest = np.clip(1.0 - grey - white, 0.0, 1.0)
    mask = np.argmax(np.stack([rest, grey, white]), axis=0).astype(np.uint8)
    image = _scan(head, grey, white, scanner, spacing, rng)
    return image, mask, affine


def _scan(
    head: NDArray[np.float32],
    grey: NDArray[np.float32],
    white: NDArray[np.float32],
    scanner: Scanner,
    spacing: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """See an anatomy with a random scanner: brightness ``*space``, at least 0."""
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0) * (head > 0.05)
    inverted = rng.random() < scanner.inverted
    levels = np.array([0.95, 0.62, 0.42] if inverted else [0.30, 0.68, 0.95])
    levels = np.sort(levels + rng.normal(0.0, scanner.contrast, 3))[:: -1 if inverted else 1]
    mixed = levels[0] * fluid + levels[1] * grey + levels[2] * white
    plain = 0.30 * fluid + 0.70 * grey + 1.0 * white
    detail = (head - plain) * (head > 0.05)  # what the template shows beyond its three tissues
    bright = np.clip(mixed + (-0.5 if inverted else 0.6) * detail, 0.0, None)
    bright = bright ** np.exp(rng.normal(0.0, 0.12))  # a monotone curve keeps the order of tissues
    gain = gaussian_filter(rng.standard_normal(head.shape), 45.0 / spacing, mode="reflect")
    gain = np.exp(scanner.bias * (gain - gain.mean()) / max(float(gain.std()), 1e-12))
    sharpness = rng.uniform(0.0, 0.5)
    bright = gaussian_filter(bright * gain, sharpness)
    deviation = rng.uniform(0.3, 1.0) * scanner.noise
    real, imaginary = rng.normal(0.0, deviation, (2, *head.shape))
    seen: NDArray[np.float32] = np.hypot(bright + real, imaginary).astype(np.float32)
    return seen


def _write_image(
    path: Path, image: NDArray[np.float32], affine: NDArray[np.float64], order: str, number: int
) -> None:
    """Write brightness as this scanner does: mostly 16-bit integers, every fifth file as 32-bit fractions."""
    gain = (400.0, 900.0, 1500.0)[number % 3]
    scaled = image * gain
    _write(path, scaled if number % 5 == 4 else np.round(scaled).astype(np.int16), affine, order)


def _write(path: Path, array: NDArray[Any], affine: NDArray[np.float64], order: str) -> None:
    """Write an RAS array as NIfTI with its axes in another order, and the affine that says so."""
    image = nib.Nifti1Image(array, affine)
    now = nib.orientations.io_orientation(affine)
    wanted = nib.orientations.axcodes2ornt(tuple(order))
    turned = image.as_reoriented(nib.orientations.ornt_transform(now, wanted))
    turned.header.set_xyzt_units("mm")
    turned.set_qform(turned.affine, code=1)
    turned.set_sform(turned.affine, code=1)
    nib.save(turned, path)
