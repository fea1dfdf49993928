from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unlabeled.data.checking import check_scans
from unlabeled.data.index import index_scans


@dataclass(frozen=True, kw_only=True)
class Needs:
    unit: str = "volume"
    dims: tuple[int, ...] = (2, 3)
    metadata: tuple[str, ...] = ()
    some: tuple[str, ...] = ()
    volumes: bool = False
    channels: int = 1
    some_channels: int = 1
    colour: bool = False
    scans_per_subject: int = 1
    subjects: int = 1


def scan(path: Path, voxels=None, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6) if voxels is None else voxels
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1]) if affine is None else affine), path)
    return path


def picture(path: Path, colour: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (8, 9, 3) if colour else (8, 9)
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def mixed(tmp_path):
    scan(tmp_path / "p1/a.nii.gz")
    scan(
        tmp_path / "p1/b.nii.gz",
        np.arange(210, dtype=np.int16).reshape(5, 6, 7),
        np.diag([1.0, 1, 1, 1]) * 1,
    )
    picture(tmp_path / "p2/c.png")
    picture(tmp_path / "p3/d.png", colour=True)
    (tmp_path / "p4").mkdir()
    for name in ("e", "f"):
        (tmp_path / f"p4/{name}.nii.gz").write_bytes(b"")
    return tmp_path


def test_groups_and_problems(mixed):
    findings = check_scans(index_scans(mixed))
    assert (findings.scans, findings.subjects, findings.studies) == (4, 3, 3)
    kinds = {(g.dims, g.channels, g.colour): g for g in findings.groups}
    assert set(kinds) == {(3, 1, False), (2, 1, False), (2, 3, True)}
    volumes = kinds[3, 1, False]
    assert volumes.shape == ((4, 5), (5, 6), (6, 7))
    assert volumes.scans == 2
    assert volumes.subjects == 1
    assert kinds[2, 1, False].spacing is None
    (problem,) = findings.problems
    assert problem.count == 2
    assert problem.examples == ("p4/e.nii.gz", "p4/f.nii.gz")
    assert "empty" in problem.text
    assert findings.usable


def test_json_holds_it_all(mixed):
    value = json.loads(json.dumps(check_scans(index_scans(mixed), needs={"m": Needs()}).as_json()))
    assert value["scans"] == 4
    assert value["methods"][0]["fits"] is True
    assert len(value["quarantine"]) == 2
    assert value["groups"][0]["scans"] == 2


@pytest.mark.parametrize(
    ("needs", "usable", "says"),
    [
        (Needs(), 4, None),
        (Needs(dims=(3,)), 2, "2 of 4 scans have 2 axes of space, and it needs 3"),
        (Needs(dims=(2,)), 4, None),
        (Needs(volumes=True), 2, "2 of 4 scans are no volumes"),
        (Needs(some=("report",)), 0, "no scan has report"),
        (Needs(colour=True), 1, "3 of 4 scans are not in colour"),
        (Needs(channels=2), 1, "3 of 4 scans have fewer than 2 channels"),
        (Needs(metadata=("spacing",)), 1, "3 of 4 scans have no spacing"),
        (Needs(metadata=("report",)), 0, "4 of 4 scans have no report"),
        (Needs(scans_per_subject=2), 2, "2 of 3 subjects have fewer than 2 scans"),
        (Needs(subjects=5), 0, "3 subjects fit, and it needs 5"),
    ],
)
def test_what_a_method_can_use(mixed, needs, usable, says):
    findings = check_scans(index_scans(mixed), needs={"method": needs})
    (fitness,) = findings.methods
    assert fitness.usable == usable
    assert fitness.fits == findings.usable == (usable > 0)
    assert says is None or says in fitness.reasons


def test_deep_reads_voxels(tmp_path):
    scan(tmp_path / "good.nii.gz")
    scan(tmp_path / "constant.nii.gz", np.full((4, 5, 6), 3, np.int16))
    nan = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    nan[0, 0, 0] = np.nan
    scan(tmp_path / "nan.nii.gz", nan)
    assert check_scans(index_scans(tmp_path)).scans == 3
    findings = check_scans(index_scans(tmp_path), deep=True)
    assert findings.scans == 1
    reasons = {row.name: row.reason for row in findings.quarantine}
    assert "NaN" in reasons["nan.nii.gz"]
    assert "same value" in reasons["constant.nii.gz"]


def test_deep_reads_the_values_of_masks(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "tail": 1}}')
    for name, value in (("a", 1), ("b", 2), ("c", 0)):
        scan(tmp_path / f"images/{name}.nii.gz")
        mask = np.zeros((4, 5, 6), np.uint8)
        mask[1, 1, 1] = value
        scan(tmp_path / f"labels/{name}.nii.gz", mask)
    findings = check_scans(index_scans(tmp_path, labelled=True), deep=True)
    assert findings.label_counts == {0: 3, 1: 1, 2: 1}
    assert "masks hold values without a name: 2" in findings.notes
    (remark,) = findings.remarks
    assert remark.examples == ("images/c.nii.gz",)
    assert findings.with_columns == {"mask": 3}


@pytest.mark.parametrize("deep", [False, True])
def test_masks_of_another_shape_are_named(tmp_path, deep):
    scan(tmp_path / "images/a.nii.gz")
    scan(tmp_path / "labels/a.nii.gz", np.zeros((4, 5, 9), np.uint8))
    findings = check_scans(index_scans(tmp_path, labelled=True), deep=deep)
    assert not findings.usable
    assert "labels/a.nii.gz" in findings.problems[0].text


def test_modalities_on_other_grids_are_named(tmp_path):
    scan(tmp_path / "t1.nii.gz")
    scan(tmp_path / "t2.nii.gz", np.zeros((3, 3, 3), np.int16))
    (tmp_path / "scans.csv").write_text("image\nt1.nii.gz;t2.nii.gz\n")
    findings = check_scans(index_scans(tmp_path / "scans.csv"))
    assert "3 x 3 x 3 voxels" in findings.problems[0].text


def test_progress_counts_every_scan(mixed):
    done = []
    check_scans(index_scans(mixed), progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]


def test_headers_alone_do_not_read_voxels(tmp_path):
    path = scan(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:400])
    shallow = check_scans(index_scans(tmp_path))
    deep = check_scans(index_scans(tmp_path), deep=True)
    assert deep.scans == 0
    assert shallow.scans + len(shallow.quarantine) == 1


def test_whatever_is_broken_is_named_never_raised(tmp_path, broken, broken_name):
    from unlabeled.errors import DataError

    folder = tmp_path / "scans"
    folder.mkdir()
    case = broken.CASES[broken_name]
    case.make(folder)
    try:
        findings = check_scans(index_scans(folder), deep=True)
    except DataError as error:
        shown, scans = str(error), 0
    else:
        shown, scans = " ".join(row.reason for row in findings.quarantine), findings.scans
    if case.ends == "refused":
        assert scans == 0
        assert shown
    elif case.ends == "partly":
        assert scans > 0
        assert shown
    elif case.ends == "read":
        assert scans > 0
    else:
        assert scans == 0
