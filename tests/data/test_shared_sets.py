"""Every set of real scans is read in full, or its files are named with their reason."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from unlabeled.data.checking import check_scans
from unlabeled.data.index import index_scans
from unlabeled.errors import DataError

# set: usable scans, files left out with a word of the reason
PLAIN = {
    "body-ct": (10, 0, ""),
    "brain-ms-longitudinal": (18, 0, ""),
    "brain-ms-multimodal": (10, 0, ""),
    "brain-sections": (35, 0, ""),
    "brain-slices-2d": (28, 0, ""),
    "brain-tumour-mri": (16, 0, ""),
    "cardiac-cine-mri": (0, 3, "5 volumes over time"),
    "fmri-haxby": (5, 18, "121 volumes over time"),
    "nerve-sem": (16, 0, ""),
    "retina-vessels": (32, 0, ""),
    "spine-mri": (18, 0, ""),
}
ZIPPED = {
    "breast-ultrasound": 119,
    "chest-xray-longitudinal": 179,
    "chest-xray-notes-masks": 32,
    "colonoscopy": 114,
    "hippocampus-mri": 170,
    "nuclei": 122,
    "skin-lesions": 180,
}
WITHOUT_MASKS = {"chest-xray-longitudinal"}
NO_SCANS = {"fmri-digits"}


def unzip(folder: Path, into: Path) -> Path:
    for archive in folder.glob("*.zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(into / archive.stem)
    return into


def test_every_set_is_listed_here(shared_data):
    known = {*PLAIN, *ZIPPED, *NO_SCANS}
    assert {folder.name for folder in shared_data.iterdir() if folder.is_dir()} == known


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_plain_sets_are_read_or_named(shared_data, name):
    usable, left_out, says = PLAIN[name]
    findings = check_scans(index_scans(shared_data / name), deep=True)
    assert (findings.scans, len(findings.quarantine)) == (usable, left_out)
    assert all(says in row.reason for row in findings.quarantine)


def test_one_frame_of_a_film_is_a_scan(shared_data, tmp_path):
    film = shared_data / "cardiac-cine-mri" / "pig_gip17_sax_cine.nii.gz"
    (tmp_path / "frames.csv").write_text(f"image,subject,frame\n{film},pig,0\n{film},pig,4\n")
    findings = check_scans(index_scans(tmp_path / "frames.csv"), deep=True)
    assert findings.scans == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZIPPED))
def test_zipped_sets_are_read_in_full(shared_data, tmp_path, name):
    root = unzip(shared_data / name, tmp_path)
    findings = check_scans(index_scans(root), deep=True)
    assert (findings.scans, len(findings.quarantine)) == (ZIPPED[name], 0)
    assert set(findings.splits) <= {"train", "val", "test"}
    assert sum(findings.splits.values()) == findings.scans
    if name not in WITHOUT_MASKS:
        labelled = check_scans(index_scans(root, labelled=True), deep=True)
        assert labelled.with_columns["mask"] == ZIPPED[name] - len(labelled.quarantine)
        assert not labelled.quarantine


def test_a_set_without_scans_says_so(shared_data):
    with pytest.raises(DataError, match=r"1 \.npz"):
        index_scans(shared_data / "fmri-digits")
