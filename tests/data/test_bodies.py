"""Boxes with names: read from a manifest, brought to the prepared scan's grid, or cut by position."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from unlabeled.data.bodies import bodies_by_level, bodies_by_position, in_order
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Store
from unlabeled.demo.phantoms import write_manifest
from unlabeled.errors import ScanError

CORNER = (2, 3, 4, 6, 9, 7)  # a bright box of 4 x 6 x 3 voxels


def record_of(folder: Path, array: np.ndarray, affine=None, spacing=None, **row: str):
    name = "scan.nii.gz"
    if affine is None:
        affine = np.diag([2.0, 1.0, 3.0, 1.0])
        affine[:3, 3] = -20.0
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / name)
    manifest = write_manifest(folder / "scans.csv", [{"image": name, "subject": "p", **row}])
    done = Store(folder / "cache", spacing=spacing).prepare(
        index_scans(manifest).sources, rule=IntensityRule(kind="range")
    )
    assert not done.quarantine
    return done.records[0]


def blocks() -> np.ndarray:
    array = np.full((10, 12, 14), 20, np.int16)
    array[2:6, 3:9, 4:7] = 200
    return array


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_a_box_of_the_file_holds_the_same_voxels_after_reorientation(tmp_path, axes, signs):
    affine = np.zeros((4, 4))
    for axis, (to, sign, step) in enumerate(zip(axes, signs, (2.0, 1.0, 3.0), strict=True)):
        affine[to, axis] = sign * step
    affine[:3, 3], affine[3, 3] = (5.0, -7.0, 9.0), 1.0
    cell = " ".join(map(str, CORNER))
    record = record_of(tmp_path, blocks(), affine, level="L4", boxes=cell)
    (body,) = bodies_by_level(record)
    start = [round(begin) for begin, _ in body.bounds]
    size = [round(end - begin) for begin, end in body.bounds]
    assert np.allclose(
        [list(each) for each in body.bounds], [[s, s + e] for s, e in zip(start, size, strict=True)]
    )
    assert sorted(size) == [3, 4, 6]
    inside, whole = record.patch(start, size), record.patch((0, 0, 0), record.space)
    assert (inside == whole.max()).all()
    assert (whole == whole.max()).sum() == inside.numel()


def test_a_box_follows_the_scan_to_another_spacing(tmp_path):
    cell = ",".join(map(str, CORNER))
    record = record_of(tmp_path, blocks(), spacing=(1.0, 1.0, 1.5), level="L4", boxes=cell)
    (body,) = bodies_by_level(record)
    (across, depth, height) = body.bounds
    assert across == pytest.approx((4, 12), abs=0.6)
    assert depth == pytest.approx((3, 9), abs=0.6)
    assert height == pytest.approx((8, 14), abs=0.6)


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ({}, "has no level and no boxes"),
        ({"level": "L4"}, "has no boxes"),
        ({"boxes": "0 0 0 1 1 1"}, "has no level"),
        ({"level": "L4;L5", "boxes": "0 0 0 1 1 1"}, "2 levels and 1 boxes"),
        ({"level": "L4;L4", "boxes": "0 0 0 1 1 1;0 0 0 2 2 2"}, "names the level L4 twice"),
        ({"level": "L4", "boxes": "0 0 1 1"}, "6 numbers"),
        ({"level": "L4", "boxes": "0 0 a 1 1 1"}, "6 numbers"),
        ({"level": "L4", "boxes": "0 0 0 1 1 nan"}, "6 numbers"),
        ({"level": "L4", "boxes": "0 5 0 4 5 9"}, "ends before it begins"),
        ({"level": "L4", "boxes": "20 0 0 24 5 9"}, "lies outside its 10 x 12 x 14 voxels"),
    ],
)
def test_what_is_no_box_is_refused_with_what_to_write(tmp_path, row, fact):
    record = record_of(tmp_path, blocks(), **row)
    with pytest.raises(ScanError, match=fact) as refused:
        bodies_by_level(record)
    assert refused.value.remedy


def test_levels_are_listed_from_head_to_foot():
    assert in_order(["S1", "L5", "T12", "L1", "C7", "L1"]) == ("C7", "T12", "L1", "L5", "S1")
    assert in_order(["10", "9", "1"]) == ("1", "9", "10")


def test_places_divide_the_foreground_from_foot_to_head(tmp_path):
    array = np.zeros((10, 20, 40), np.int16)
    array[1:9, 2:18, 4:36] = np.random.default_rng(0).integers(100, 200, (8, 16, 32))
    record = record_of(tmp_path, array)
    bodies = bodies_by_position(record, 4)
    (left, right), (back, front), (low, high) = record.foreground
    assert [body.level for body in bodies] == ["1", "2", "3", "4"]
    assert bodies[0].bounds[2][0] == low
    assert bodies[-1].bounds[2][1] == high
    for one, other in itertools.pairwise(bodies):
        assert one.bounds[2][1] == pytest.approx(other.bounds[2][0])
    for body in bodies:
        assert body.bounds[0] == (left, right)
        deep, tall = (end - begin for begin, end in body.bounds[1:])
        assert deep * 1.0 == pytest.approx(tall * 3.0)  # mm
        assert sum(body.bounds[1]) == pytest.approx(back + front)
