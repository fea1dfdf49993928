"""A few tiny scans, prepared once."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Store


@pytest.fixture(scope="session")
def tiny_scans(tmp_path_factory):
    """Folder of twelve volumes of 12 voxels a side, each of its own subject."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number in range(12):
        smooth = np.cumsum(rng.normal(size=(12, 12, 12)), axis=number % 3)
        image = nib.Nifti1Image((100 * smooth).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
        nib.save(image, folder / f"p{number:02d}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def records(tiny_scans, tmp_path_factory):
    """The same as records of a store."""
    index = index_scans(tiny_scans)
    store = Store(tmp_path_factory.mktemp("cache"))
    return store.prepare(index.sources, rule=IntensityRule()).records
