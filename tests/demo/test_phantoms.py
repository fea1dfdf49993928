"""Phantoms keep their layout, differ between patients and are written as ordinary files."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import center_of_mass

from unlabeled.demo.phantoms import LABELS, draw_ct, draw_phantom, write_manifest, write_patients
from unlabeled.errors import DataError


@pytest.mark.parametrize("shape", [(24, 28, 20), (32, 40)])
def test_organs_keep_their_layout_and_patients_differ(shape):
    patients = [draw_phantom(seed, shape) for seed in range(8)]
    for phantom in patients:
        assert phantom.image.shape == phantom.mask.shape == shape
        assert phantom.image.dtype == np.float32
        assert set(np.unique(phantom.mask)) == set(LABELS)
        left, right = (center_of_mass(phantom.mask == value) for value in (1, 2))
        assert left[0] + 0.2 * shape[0] < right[0]
    assert not np.allclose(patients[0].image, patients[1].image)
    assert np.array_equal(patients[0].image, draw_phantom(0, shape).image)


def test_labels_can_be_learnt_from_brightness_and_place():
    phantom = draw_phantom(0)
    levels = [phantom.image[phantom.mask == value].mean() for value in (1, 2)]
    assert levels[0] == pytest.approx(0.75, abs=0.02)
    assert levels[1] == pytest.approx(0.60, abs=0.02)


def test_ct_is_in_hounsfield_units():
    volume = draw_ct(3, (24, 24, 16))
    assert volume.dtype == np.int16
    corner = volume[:2, :2, :2]
    assert corner.mean() == pytest.approx(-1000, abs=15)
    assert np.median(volume[(volume > -200) & (volume < 300)]) == pytest.approx(40, abs=5)
    assert volume.min() >= -1024
    assert volume.max() > 650


@pytest.mark.parametrize("shape", [(8,), (3, 8, 8), (8, 8, 8, 8)])
def test_shapes_that_cannot_be_drawn_are_refused(shape):
    with pytest.raises(DataError, match="phantom"):
        draw_phantom(0, shape)


def test_volumes_and_labels_are_written_with_geometry(tmp_path):
    paths = write_patients(tmp_path, patients=2, shape=(16, 18, 12), labelled=True)
    for path in paths:
        image, mask = nib.load(path), nib.load(tmp_path / "labels" / path.name)
        assert image.shape == mask.shape == (16, 18, 12)
        assert np.allclose(image.affine, mask.affine)
        assert not np.allclose(image.affine, np.eye(4))
        assert np.asarray(mask.dataobj).max() == 2


def test_pictures_and_ct_are_written(tmp_path):
    picture = write_patients(tmp_path / "2d", patients=1, shape=(20, 30), labelled=True)[0]
    assert np.asarray(Image.open(picture)).shape == (20, 30)
    assert np.asarray(Image.open(tmp_path / "2d" / "labels" / picture.name)).max() == 2
    volume = write_patients(tmp_path / "ct", patients=1, shape=(12, 12, 12), kind="ct")[0]
    assert nib.load(volume).get_data_dtype() == np.int16
    assert np.asarray(nib.load(volume).dataobj).min() < -800


def test_a_manifest_has_every_column_once(tmp_path):
    path = write_manifest(
        tmp_path / "new" / "scans.csv", [{"image": "a.png"}, {"image": "b,c.png", "label": 1}]
    )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"image": "a.png", "label": ""}, {"image": "b,c.png", "label": "1"}]
