"""Masks come onto the grid of their scan and go back onto the grid of its file, bit for bit."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unlabeled.data.formats import detect, read_mask, read_scan, write_mask
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.errors import ScanError


def file(path: Path) -> ScanFile:
    return ScanFile((path,), detect(path) or "")


def read(path: Path) -> Scan:
    return read_scan(Source(name=path.name, channels=(file(path),), subject="a"))


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(list(itertools.permutations(range(3)))),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    shear=st.floats(-0.3, 0.3),
    shape=st.sampled_from([(5, 6, 7), (5, 1, 7), (1, 1, 4), (5, 6)]),
    seed=st.integers(0, 1000),
)
def test_a_mask_read_and_written_is_the_file_again(
    order: tuple[int, ...],
    signs: tuple[int, ...],
    shear: float,
    shape: tuple[int, ...],
    seed: int,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * [0.75, 1.5, 2.5]
    affine[0, :3] += shear * affine[1, :3]
    affine[:3, 3] = [12, -30, 44]
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, shape).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = rng.integers(0, 1000, shape).astype(np.int16)
        image.flat[:2] = 0, 1
        nib.save(nib.Nifti1Image(image, affine), folder / "scan.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), folder / "mask.nii.gz")
        scan = read(folder / "scan.nii.gz")
        mask = read_mask(file(folder / "mask.nii.gz"), scan)
        assert mask.shape == scan.array.shape[1:]
        write_mask(folder / "again.nii.gz", mask, scan.grid, scan.affine)
        again, first = nib.load(folder / "again.nii.gz"), nib.load(folder / "mask.nii.gz")
        assert np.array_equal(np.asanyarray(again.dataobj), labels)
        assert again.get_data_dtype() == np.uint8
        assert np.array_equal(again.affine, first.affine)
        assert again.header.get_xyzt_units()[0] == "mm"
        assert sorted(path.name for path in folder.iterdir()) == [
            "again.nii.gz",
            "mask.nii.gz",
            "scan.nii.gz",
        ]


def test_a_mask_of_another_orientation_is_turned(broken: ModuleType, tmp_path: Path) -> None:
    labels = broken.voxels(dtype=np.uint8)
    scan = read(broken.nifti(tmp_path / "scan.nii.gz", labels))
    turned = nib.as_closest_canonical(nib.Nifti1Image(labels, broken.AFFINE))
    nib.save(turned, tmp_path / "mask.nii.gz")
    assert np.array_equal(read_mask(file(tmp_path / "mask.nii.gz"), scan), scan.array[0])


@pytest.mark.parametrize("kind", ["identity", "npy"])
def test_a_mask_without_geometry_is_turned_as_its_scan_was(
    broken: ModuleType, tmp_path: Path, kind: str
) -> None:
    labels = broken.voxels(dtype=np.uint8)
    scan = read(broken.nifti(tmp_path / "scan.nii.gz", labels))
    if kind == "npy":
        path = broken.array_file(tmp_path / "mask.npy", labels)
    else:
        path = broken.nifti(tmp_path / "mask.nii.gz", labels, np.eye(4))
    assert np.array_equal(read_mask(file(path), scan), scan.array[0])


def test_a_scan_without_geometry_takes_a_mask_that_has_one(
    broken: ModuleType, tmp_path: Path
) -> None:
    labels = broken.voxels(dtype=np.uint8)
    scan = read(broken.nifti(tmp_path / "scan.nii.gz", labels, np.eye(4)))
    path = broken.nifti(tmp_path / "mask.nii.gz", labels)
    assert np.array_equal(read_mask(file(path), scan), labels)
    write_mask(tmp_path / "out.nii.gz", labels, scan.grid, scan.affine)
    again = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asanyarray(again.dataobj), labels)
    assert np.array_equal(again.affine, np.eye(4))


def test_masks_that_do_not_fit_are_refused(broken: ModuleType, tmp_path: Path) -> None:
    scan = read(broken.nifti(tmp_path / "scan.nii.gz"))
    small = broken.nifti(tmp_path / "a.nii.gz", broken.voxels(7, 6, 4))
    with pytest.raises(ScanError, match="7 x 6 x 4 voxels"):
        read_mask(file(small), scan)
    with pytest.raises(ScanError, match="7 x 6 x 4 voxels"):
        read_mask(file(broken.array_file(tmp_path / "a.npy", broken.voxels(7, 6, 4))), scan)
    shift = np.zeros((4, 4))
    shift[0, 3] = 5
    away = broken.nifti(tmp_path / "b.nii.gz", affine=broken.AFFINE + shift)
    with pytest.raises(ScanError, match="lies elsewhere"):
        read_mask(file(away), scan)
    near = broken.nifti(tmp_path / "c.nii.gz", affine=broken.AFFINE + shift / 500)
    assert read_mask(file(near), scan).shape == (7, 6, 5)


def test_values_that_are_no_labels_are_refused(broken: ModuleType, tmp_path: Path) -> None:
    scan = read(broken.nifti(tmp_path / "scan.nii.gz"))
    shares = broken.nifti(tmp_path / "a.nii.gz", broken.voxels(dtype=np.float32) / 7)
    with pytest.raises(ScanError, match="no whole numbers"):
        read_mask(file(shares), scan)
    whole = broken.nifti(tmp_path / "b.nii.gz", broken.voxels(dtype=np.float32))
    mask = read_mask(file(whole), scan)
    assert mask.dtype == np.int32
    assert np.array_equal(mask, scan.array[0])


def test_a_constant_mask_is_a_mask(broken: ModuleType, tmp_path: Path) -> None:
    scan = read(broken.nifti(tmp_path / "scan.nii.gz"))
    path = broken.nifti(tmp_path / "a.nii.gz", np.zeros((7, 6, 5), np.uint8))
    assert not read_mask(file(path), scan).any()


def test_masks_of_pictures(broken: ModuleType, tmp_path: Path) -> None:
    scan = read(broken.picture(tmp_path / "scan.png", broken.voxels(20, 30, 3, dtype=np.uint8)))
    labels = (np.arange(600).reshape(20, 30) % 7).astype(np.uint8)
    palette = Image.fromarray(labels, mode=None).convert("L").convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([10, 200, 30, 4, 5, 6] * 4)
    palette.save(tmp_path / "palette.png")
    grey = np.repeat(labels[:, :, None], 3, axis=2)
    broken.picture(tmp_path / "grey.png", grey)
    broken.tiff(tmp_path / "mask.tif", labels)
    for name in ("palette.png", "grey.png", "mask.tif"):
        assert np.array_equal(read_mask(file(tmp_path / name), scan), labels)
    write_mask(tmp_path / "out.png", labels.astype(np.int64) * 300, scan.grid, scan.affine)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), labels.astype(int) * 300)
    with pytest.raises(ScanError, match="JPEG"):
        read_mask(file(broken.picture(tmp_path / "m.jpg", labels)), scan)
    colours = broken.picture(tmp_path / "c.png", broken.voxels(20, 30, 3, dtype=np.uint8))
    with pytest.raises(ScanError, match="3 different channels"):
        read_mask(file(colours), scan)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    volume, picture = Grid((5, 6, 7), np.diag([2.0, 2, 2, 1])), Grid((5, 6), None)
    with pytest.raises(ScanError, match="5 x 5 x 5 voxels"):
        write_mask(tmp_path / "a.nii.gz", np.zeros((5, 5, 5), np.uint8), volume, volume.affine)
    with pytest.raises(ScanError, match=r"suffix") as caught:
        write_mask(tmp_path / "a.png", np.zeros((5, 6, 7), np.uint8), volume, volume.affine)
    assert caught.value.remedy == "Name it .nii or .nii.gz."
    with pytest.raises(ScanError, match="0 to 65535"):
        write_mask(tmp_path / "a.png", np.full((5, 6), -1), picture, None)
    with pytest.raises(ScanError, match="0 to 65535"):
        write_mask(tmp_path / "a.png", np.full((5, 6), 0.5), picture, None)
    assert not list(tmp_path.iterdir())


def test_probabilities_are_written_as_floats(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), np.diag([2.0, 2, 2, 1]))
    shares = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    write_mask(tmp_path / "p.nii.gz", shares, grid, grid.affine)
    again = nib.load(tmp_path / "p.nii.gz")
    assert again.get_data_dtype() == np.float32
    assert np.array_equal(np.asanyarray(again.dataobj), shares)
