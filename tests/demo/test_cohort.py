"""A virtual cohort is made of ordinary, varied NIfTI files whose label maps fit their images."""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import pytest

from unlabeled.demo.cohort import LABELS, Cohort, Scanner, make_cohort
from unlabeled.errors import DataError

pytest.importorskip("nilearn", reason="the virtual cohort needs the extra `demo`")


def load(path):
    return nib.as_closest_canonical(nib.load(path))


def images_of(cohort: Cohort):
    return sorted((cohort.labelled / "images").iterdir())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    return make_cohort(
        tmp_path_factory.mktemp("cohort"), subjects=7, labelled=8, spacing=6.0, seed=1
    )


def test_every_patient_is_in_one_place(cohort):
    scans = [path.name for path in sorted(cohort.scans.iterdir())]
    images = [path.name for path in images_of(cohort)]
    labels = [path.name for path in sorted((cohort.labelled / "labels").iterdir())]
    assert (len(scans), len(images)) == (7, 8) == (cohort.subjects, cohort.labelled_subjects)
    assert images == labels
    assert not set(scans) & set(images)


def test_files_differ_in_orientation_type_spacing_and_tilt(cohort):
    headers = [nib.load(path) for path in [*cohort.scans.iterdir(), *images_of(cohort)]]
    assert {"RAS", "LAS", "PSR"} <= {"".join(nib.aff2axcodes(image.affine)) for image in headers}
    assert {np.dtype("int16"), np.dtype("float32")} == {image.get_data_dtype() for image in headers}
    assert len({tuple(sorted(np.round(image.header.get_zooms(), 2))) for image in headers}) == 2
    for image in headers:
        edges = image.affine[:3, :3] / np.asarray(image.header.get_zooms())
        assert np.allclose(edges @ edges.T, np.eye(3), atol=1e-5)
        assert np.abs(edges).max(axis=0).min() < 0.99999  # tilted a little
        assert image.header.get_xyzt_units()[0] == "mm"


def test_label_maps_lie_on_their_images_and_hold_every_tissue(cohort):
    names = json.loads((cohort.labelled / "dataset.json").read_text())["labels"]
    assert names == {name: value for value, name in LABELS.items()}
    for path in images_of(cohort):
        image, mask = nib.load(path), nib.load(cohort.labelled / "labels" / path.name)
        assert image.shape == mask.shape
        assert np.allclose(image.affine, mask.affine)
        labels = np.asarray(mask.dataobj)
        assert labels.dtype == np.uint8
        shares = np.bincount(labels.ravel(), minlength=3) / labels.size
        assert len(shares) == 3
        assert shares[0] > 0.4
        assert shares[1] > 0.05
        assert shares[2] > 0.03


def test_the_brain_is_whole_and_stands_out_of_the_noise(cohort):
    for path in images_of(cohort):
        image = load(path).get_fdata()
        mask = load(cohort.labelled / "labels" / path.name).get_fdata()
        faces = np.concatenate([np.take(mask, [0, -1], axis=axis).ravel() for axis in range(3)])
        assert faces.mean() < 0.02
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert np.median(image[mask > 0]) > 2 * np.median(image[mask == 0])


def test_contrast_is_inverted_in_some_scans_and_brightness_overlaps_in_all(tmp_path):
    cohort = make_cohort(tmp_path, subjects=0, labelled=12, spacing=8.0, seed=3)
    brighter = 0
    for path in images_of(cohort):
        image = load(path).get_fdata()
        mask = load(cohort.labelled / "labels" / path.name).get_fdata()
        brighter += np.median(image[mask == 2]) > np.median(image[mask == 1])
        best = max(
            np.mean(np.where(mask[mask > 0] == 2, image[mask > 0] > cut, image[mask > 0] <= cut))
            for cut in np.percentile(image[mask > 0], np.arange(5, 100, 5))
        )
        assert best < 0.95  # no threshold tells the tissues apart
    assert 4 <= brighter <= 11


def test_a_calm_scanner_shows_the_template_itself(tmp_path):
    calm = Scanner(contrast=0, inverted=0, bias=0, noise=0, other_spacing=0, tilt=0)
    cohort = make_cohort(tmp_path, subjects=0, labelled=1, spacing=6.0, scanner=calm)
    path = images_of(cohort)[0]
    image = load(path).get_fdata()
    mask = load(cohort.labelled / "labels" / path.name).get_fdata()
    levels = [np.median(image[mask == value]) for value in range(3)]
    assert levels[0] == 0
    assert levels[0] < levels[1] < levels[2]


def test_the_seed_decides_every_voxel(tmp_path):
    def voxels(name, seed):
        cohort = make_cohort(tmp_path / name, subjects=1, labelled=1, spacing=8.0, seed=seed)
        paths = [*cohort.scans.iterdir(), *sorted(cohort.labelled.rglob("*.nii.gz"))]
        return [np.asarray(nib.load(path).dataobj) for path in paths]

    first, again, other = voxels("a", 4), voxels("b", 4), voxels("c", 5)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(
        one.shape == two.shape and np.array_equal(one, two)
        for one, two in zip(first, other, strict=True)
    )


def test_no_personal_or_local_word_is_in_a_header(cohort):
    for path in cohort.scans.iterdir():
        header = nib.load(path).header
        assert header["descrip"].item() == b""
        assert header["aux_file"].item() == b""
        assert header["intent_name"].item() == b""


def test_a_missing_template_is_named_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(DataError, match="pip install 'unlabeled\\[demo\\]'"):
        make_cohort(tmp_path, subjects=1, labelled=1)


@pytest.mark.parametrize(
    "wrong", [{"spacing": 1.0}, {"spacing": 9.0}, {"subjects": 0, "labelled": 0}, {"subjects": -1}]
)
def test_a_cohort_that_cannot_be_made_is_refused(tmp_path, wrong):
    with pytest.raises(DataError):
        make_cohort(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()
