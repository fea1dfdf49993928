"""Every real scan at hand is read, or refused for a reason that is true."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unlabeled.data.formats import detect, read_header, read_mask, read_scan
from unlabeled.data.scan import Scan, ScanFile, Source
from unlabeled.errors import ScanError

CINE = ("cardiac-cine-mri", "fmri-haxby")
SETS = (
    "body-ct",
    "brain-ms-longitudinal",
    "brain-ms-multimodal",
    "brain-sections",
    "brain-slices-2d",
    "brain-tumour-mri",
    "breast-ultrasound",
    "cardiac-cine-mri",
    "chest-xray-longitudinal",
    "chest-xray-notes-masks",
    "colonoscopy",
    "fmri-haxby",
    "hippocampus-mri",
    "nerve-sem",
    "nuclei",
    "retina-vessels",
    "skin-lesions",
    "spine-mri",
)


def files_of(folder: Path, unpacked: Path) -> Iterator[ScanFile]:
    """Give the scans of a set, those inside zip files included."""
    for archive in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(archive) as stored:
            stored.extractall(unpacked / archive.stem)
    for path in sorted([*folder.rglob("*"), *unpacked.rglob("*")]):
        kind = detect(path) if path.is_file() else None
        if kind:
            yield ScanFile((path,), kind)


def read(file: ScanFile) -> Scan:
    return read_scan(Source(name="a", channels=(file,), subject="a"))


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read(shared_data: Path, tmp_path: Path, name: str) -> None:
    ends: Counter[str] = Counter()
    for file in files_of(shared_data / name, tmp_path):
        try:
            header, scan = read_header(file), read(file)
        except ScanError as error:
            reason = error
        else:
            reason = None
        if reason is not None and name in CINE:
            assert "volumes over time" in reason.fact
            header = read_header(file, frame=1)
            scan = read_scan(Source(name="a", channels=(file,), subject="a", frame=1))
            assert header.frames > 1
        elif reason is not None:
            assert "same value in every voxel" in reason.fact
            assert "mask" in str(file.path)
            continue
        assert scan.array.shape == (header.channels, *header.shape)
        assert scan.array.dtype == header.dtype
        assert scan.spacing == header.spacing
        if file.format == "nifti" and reason is None:
            image = nib.load(file.path)
            assert (image.get_data_dtype().kind in "iu") == (scan.array.dtype.kind in "iu")
            if scan.dims == 3 and scan.affine is not None:
                reference = nib.as_closest_canonical(image)
                np.testing.assert_allclose(scan.affine, reference.affine, atol=1e-4)
                np.testing.assert_allclose(
                    scan.intensities()[0], reference.get_fdata(dtype=np.float32)
                )
        ends["read"] += 1
    assert ends["read"] >= (2 if name == "cardiac-cine-mri" else 9)


def test_real_masks_come_onto_their_scans(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "hippocampus-mri" / "val.zip") as stored:
        stored.extractall(tmp_path)
    images = sorted((tmp_path / "images").iterdir())
    for path in images:
        scan = read(ScanFile((path,), "nifti"))
        mask = read_mask(ScanFile((tmp_path / "labels" / path.name,), "nifti"), scan)
        assert mask.shape == scan.array.shape[1:]
        assert set(np.unique(mask)) == {0, 1, 2}
    assert len(images) == 16


def test_cine_scans_give_each_phase(shared_data: Path) -> None:
    file = ScanFile((shared_data / "cardiac-cine-mri" / "pig_gip17_sax_cine.nii.gz",), "nifti")
    labels = ScanFile((shared_data / "cardiac-cine-mri" / "pig_gip17_sax_lvseg.nii.gz",), "nifti")
    phases = [
        read_scan(Source(name="a", channels=(file,), subject="a", frame=frame)) for frame in (0, 2)
    ]
    assert not np.array_equal(phases[0].array, phases[1].array)
    assert read_mask(labels, phases[1], frame=2).shape == phases[1].array.shape[1:]
