"""Patients in two contrasts: registered, unlike in brightness, alike in anatomy; or one contrast each."""

from __future__ import annotations

import csv

import nibabel
import numpy as np

from unlabeled.demo.modalities import NAMES, draw_contrasts, write_modalities
from unlabeled.demo.phantoms import draw_phantom


def test_contrasts_show_the_same_anatomy_with_bright_and_dark_exchanged():
    first, second = draw_contrasts(3, (24, 24, 16))
    body = draw_phantom(3, (24, 24, 16), noise=0.0).image > 0.15
    assert np.corrcoef(first[body], second[body])[0, 1] < -0.8
    assert abs(first[~body]).mean() < 0.05
    assert abs(second[~body]).mean() < 0.05
    assert not np.array_equal(first[~body], second[~body]), "noise of their own"
    again, _ = draw_contrasts(3, (24, 24, 16))
    assert np.array_equal(first, again)


def test_files_and_manifest(tmp_path):
    for registered in (True, False):
        manifest = write_modalities(
            tmp_path / str(registered), patients=4, shape=(12, 11, 8), registered=registered
        )
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["subject"] for row in rows}) == 4
        named = [row["modality"] for row in rows]
        assert named == ([";".join(NAMES)] * 4 if registered else list(NAMES) * 2)
        for row in rows:
            for name in row["image"].split(";"):
                assert nibabel.load(manifest.parent / name).shape == (12, 11, 8)
