"""Slices: planes of volumes and pictures alike, padded, with what was prepared beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan
from unlabeled.data.slices import (
    Slice,
    extra_patch,
    middle_view,
    planes_holding,
    planes_with,
    slice_heights,
)
from unlabeled.data.store import Store
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError
from unlabeled.rng import generator


@dataclass(frozen=True)
class Number:
    """A preparation: numbers every voxel."""

    def __call__(self, scan: Scan) -> Scan:
        space = scan.array.shape[1:]
        return replace(scan, extras={"places": np.arange(1, np.prod(space) + 1).reshape(space)})


@pytest.fixture(params=[(20, 14), (20, 14, 6)], ids=["picture", "volume"])
def record(request: pytest.FixtureRequest, tmp_path: Path):
    write_patients(tmp_path / "scans", patients=1, shape=request.param, labelled=True)
    store = Store(tmp_path / "cache", prepare=Number(), prepare_key="number")
    sources = index_scans(tmp_path / "scans", labelled=True).sources
    return store.prepare(sources, rule=IntensityRule()).records[0]


def test_a_slice_reads_its_own_plane_with_labels_and_padding(record):
    plane = 0 if record.dims == 2 else 4
    item = Slice(record, plane)
    whole = record.patch((0,) * record.dims, record.space).reshape(1, 20, 14, -1)[..., plane]
    patch, places = item.patch((-2, 3), (10, 16)), item.labels("places", (-2, 3), (10, 16))
    assert patch.shape == (1, 10, 16)
    assert torch.equal(patch[:, 2:, :11], whole[:, :8, 3:])
    assert not patch[:, :2].any()
    assert not patch[:, :, 11:].any()
    every = np.arange(1, np.prod(record.space) + 1).reshape(20, 14, -1)[..., plane]
    assert (places[2:, :11].numpy() == every[:8, 3:]).all()
    assert not places[:2].any()
    assert not places[:, 11:].any()


def test_a_patch_of_labels_outside_the_scan_is_empty(record):
    start = (50,) * record.dims
    assert not extra_patch(record, "places", start, (3,) * record.dims).any()


def test_starts_stay_within_the_slice(record):
    item = Slice(record, 0)
    starts = {item.draw_start((16, 14), generator(n)) for n in range(60)}
    assert {first for first, _ in starts} == set(range(5))
    assert {second for _, second in starts} == {0}


def test_planes_that_hold_a_label_are_found(record):
    found = planes_holding(record, (1,))
    mask = record.mask_patch((0,) * record.dims, record.space).reshape(20, 14, -1)
    assert found.tolist() == (mask == 1).any(0).any(0).tolist()
    assert not planes_holding(record, (77,)).any()


def test_a_scan_without_a_mask_cannot_say_what_it_holds(record):
    bare = Store(Path(record.folder).parent, prepare=Number(), prepare_key="number")
    source = replace(record.source, mask=None)
    (unmasked,) = bare.prepare([source], rule=IntensityRule()).records
    with pytest.raises(DataError, match="has no mask") as fault:
        planes_holding(unmasked, (1,))
    assert "mask" in fault.value.remedy


def test_the_middle_of_a_slice(record):
    item = Slice(record, 0)
    assert torch.equal(item.centre((10, 20)), item.patch((5, -3), (10, 20)))


def test_planes_with_enough_of_what_was_counted(record):
    @dataclass(frozen=True)
    class Counted:
        extras = {"counts": type("", (), {"whole": lambda self: np.array([[[0, 3, 7, 2]]])})()}  # noqa: RUF012

    assert planes_with(Counted(), "counts", 3).tolist() == [1, 2]
    assert planes_with(Counted(), "counts", 0).tolist() == [1, 2, 3]


def made_of(array, affine, tmp_path, spacing=None):
    path = tmp_path / "placed" / "scan.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    store = Store(tmp_path / "cache", spacing=spacing)
    (record,) = store.prepare(index_scans(path.parent).sources, rule=IntensityRule()).records
    return record


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0), (2.0, 2.0, 7.0)])
def test_heights_count_from_the_lowest_slice_of_the_file(tmp_path, spacing, flipped):
    """After resampling the grid has the same middle, so that its lowest slice is another one."""
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = -20.0
    if flipped:
        affine[:, 2] *= -1
    array = np.random.default_rng(0).integers(0, 99, (6, 5, 11)).astype(np.int16)
    record = made_of(array, affine, tmp_path, spacing)
    heights = slice_heights(record)
    assert len(heights) == record.space[2]
    np.testing.assert_allclose(np.diff(heights), record.spacing[2])
    assert heights.mean() == pytest.approx(15.0)  # the middle of eleven slices 3 mm apart
    if spacing is None:
        assert heights[0] == pytest.approx(0.0)


def test_heights_of_a_picture_and_of_a_volume_without_spacing(tmp_path):
    write_patients(tmp_path / "scans", patients=1, shape=(20, 14))
    store = Store(tmp_path / "cache")
    (picture,) = store.prepare(
        index_scans(tmp_path / "scans").sources, rule=IntensityRule()
    ).records
    assert slice_heights(picture).tolist() == [0.0]
    volume = made_of(np.arange(125, dtype=np.int16).reshape(5, 5, 5), np.eye(4), tmp_path)
    with pytest.raises(DataError, match="no voxel spacing"):
        slice_heights(volume)


def test_the_view_from_the_front_has_the_head_up(tmp_path):
    array = np.zeros((6, 5, 4), np.int16)
    array[1, 2, 3] = 9  # on the right, above
    array[5, 4, 3] = 3  # the low end of the window
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = 1.0
    view, aspect = middle_view(made_of(array, affine, tmp_path))
    assert view.shape == (4, 6)
    assert aspect == 1.5
    assert view[0, 1] == 1
    assert view.sum() == 1
    single, aspect = middle_view(made_of(array[..., 3:], affine, tmp_path / "one"))
    assert single.shape == (5, 6)
    assert single[2, 1] == 1
    assert aspect == 1.0
    write_patients(tmp_path / "flat", patients=1, shape=(20, 14))
    found = index_scans(tmp_path / "flat").sources
    (picture,) = Store(tmp_path / "cache").prepare(found, rule=IntensityRule()).records
    view, aspect = middle_view(picture)
    assert torch.equal(view, picture.patch((0, 0), (20, 14))[0])
    assert aspect == 1.0
