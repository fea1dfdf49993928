"""NIfTI: orientation, integers with their scale, byte orders, time points, headers without voxels."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data.formats import detect, geometry, read_header, read_scan
from unlabeled.data.formats import nifti as reader
from unlabeled.data.scan import Scan, ScanFile, Source
from unlabeled.errors import ScanError

ORDERS = list(itertools.permutations(range(3)))


def read(path: Path, **how: object) -> Scan:
    file = ScanFile((path,), detect(path) or "")
    return read_scan(Source(name=path.name, channels=(file,), subject="a", **how))  # type: ignore[arg-type]


def tilted(order: tuple[int, ...], signs: tuple[int, ...], angle: float) -> np.ndarray:
    """An affine with permuted, flipped, tilted axes."""
    turn = np.eye(3)
    c, s = np.cos(angle), np.sin(angle)
    turn[:2, :2] = [[c, -s], [s, c]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, list(order)] * np.array(signs) * [0.8, 0.9, 2.5]
    affine[:3, 3] = [12, -30, 44]
    return affine


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    angle=st.floats(-0.6, 0.6),
    marked=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)),
)
def test_a_marked_voxel_keeps_its_place_in_the_world(
    order: tuple[int, ...], signs: tuple[int, ...], angle: float, marked: tuple[int, ...]
) -> None:
    affine = tilted(order, signs, angle)
    array = np.zeros((5, 6, 7), np.int16)
    array[marked] = 1
    turned = geometry.to_ras(array, affine)
    ras, shape = geometry.affine_in_ras(affine, array.shape)
    assert turned.shape == shape
    (found,) = np.argwhere(turned)
    np.testing.assert_allclose(ras @ [*found, 1], affine @ [*marked, 1], atol=1e-9)
    assert np.array_equal(geometry.from_ras(turned, affine), array)
    assert (np.diag(ras[:3, :3]) > 0).all()


@settings(max_examples=30, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    angle=st.floats(-0.6, 0.6),
)
def test_orientation_agrees_with_nibabel(
    order: tuple[int, ...], signs: tuple[int, ...], angle: float
) -> None:
    affine = tilted(order, signs, angle)
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(array, affine, dtype="int64"))
    assert np.array_equal(geometry.to_ras(array, affine), np.asanyarray(canonical.dataobj))
    ras, _ = geometry.affine_in_ras(affine, array.shape)
    np.testing.assert_allclose(ras, canonical.affine, atol=1e-5)


def test_a_file_is_read_in_ras_order_with_its_spacing(broken: ModuleType, tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.5, 7], [-0.8, 0, 0, 40], [0, 0.9, 0, -30], [0, 0, 0, 1.0]])
    array = broken.voxels(5, 6, 7)
    scan = read(broken.nifti(tmp_path / "s.nii.gz", array, affine))
    assert scan.array.shape == (1, 7, 5, 6)
    assert scan.spacing == pytest.approx((2.5, 0.8, 0.9))
    assert np.array_equal(scan.array[0], array.transpose(2, 0, 1)[:, ::-1])
    assert scan.grid.shape == (5, 6, 7)
    np.testing.assert_allclose(scan.grid.affine, affine, atol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("byte_order", "<>")
def test_integers_stay_what_they_are(tmp_path: Path, kind: str, byte_order: str) -> None:
    dtype = np.dtype(kind)
    array = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(dtype)
    array[0, 0, 0], array[1, 1, 1] = np.iinfo(dtype).max, np.iinfo(dtype).min
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(dtype.newbyteorder(byte_order))
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1]), header), tmp_path / "s.nii.gz")
    scan = read(tmp_path / "s.nii.gz")
    assert scan.array.dtype == dtype
    assert scan.array.dtype.isnative
    assert np.array_equal(scan.array[0], array)


def test_the_scale_of_stored_integers_travels_beside_them(
    broken: ModuleType, tmp_path: Path
) -> None:
    image = nib.Nifti1Image(broken.voxels(), broken.AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "s.nii.gz")
    loaded = nib.load(tmp_path / "s.nii.gz")
    scan = read(tmp_path / "s.nii.gz")
    assert (scan.slope, scan.intercept) == (0.5, -1024)
    assert scan.array.dtype == np.int16
    expected = nib.as_closest_canonical(loaded).get_fdata()
    np.testing.assert_allclose(scan.intensities()[0], expected)


def test_stored_floats_are_scaled(broken: ModuleType, tmp_path: Path) -> None:
    path = broken.nifti(
        tmp_path / "s.nii", broken.voxels(dtype=np.float32), np.diag([2.0, 2, 2, 1])
    )
    plain = read(path).array.copy()
    broken.patched(path, 112, np.array([2.0, -7.0], "<f4").tobytes())
    scan = read(path)
    assert (scan.slope, scan.intercept) == (1.0, 0.0)
    np.testing.assert_allclose(scan.array, plain * 2 - 7)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_every_kind_of_file_gives_the_same_scan(
    broken: ModuleType, tmp_path: Path, suffix: str
) -> None:
    kind = nib.Nifti1Pair if suffix == ".hdr" else nib.Nifti2Image
    nib.save(kind(broken.voxels(), broken.AFFINE), tmp_path / f"s{suffix}")
    scan = read(tmp_path / f"s{suffix}")
    assert np.array_equal(scan.array[0], broken.voxels()[::-1])


def test_colours_become_channels(broken: ModuleType, tmp_path: Path) -> None:
    broken.CASES["nifti_of_colours"].make(tmp_path)
    file = ScanFile((tmp_path / "scan.nii.gz",), "nifti")
    header = read_header(file)
    assert (header.channels, header.colour, header.dtype) == (3, True, np.uint8)
    expected = broken.voxels(7, 6, 5, 3, dtype=np.uint8)[::-1]
    assert np.array_equal(read(file.path).array, np.moveaxis(expected, -1, 0))


def test_a_single_slice_has_two_axes_and_keeps_its_geometry(
    broken: ModuleType, tmp_path: Path
) -> None:
    array = broken.voxels(7, 1, 5)
    scan = read(broken.nifti(tmp_path / "s.nii.gz", array))
    assert scan.array.shape == (1, 7, 5)
    assert scan.spacing == pytest.approx((0.8, 2.5))
    assert scan.affine is not None
    # The first voxel of the flipped axis lies where the last one of the file lies.
    np.testing.assert_allclose(scan.affine @ [0, 3, 0, 1], broken.AFFINE @ [6, 0, 3, 1], atol=1e-5)
    assert scan.grid.shape == (7, 1, 5)


def test_a_file_with_two_axes_is_a_single_slice(broken: ModuleType, tmp_path: Path) -> None:
    scan = read(broken.nifti(tmp_path / "s.nii.gz", broken.voxels(7, 6)))
    assert scan.array.shape == (1, 7, 6)
    assert scan.grid.shape == (7, 6)
    assert scan.spacing == pytest.approx((0.8, 0.9))


def test_a_time_point_is_chosen_by_its_frame(broken: ModuleType, tmp_path: Path) -> None:
    array = broken.voxels(7, 6, 5, 4)
    path = broken.nifti(tmp_path / "s.nii.gz", array)
    assert np.array_equal(read(path, frame=2).array[0], array[::-1, :, :, 2])
    with pytest.raises(ScanError, match="no frame 4"):
        read(path, frame=4)
    with pytest.raises(ScanError, match="nib-roi -t 0:1"):
        read(path)


def test_a_file_with_one_volume_does_not_mind_a_frame_number(
    broken: ModuleType, tmp_path: Path
) -> None:
    path = broken.nifti(tmp_path / "s.nii.gz")
    assert read(path, frame=429).array.shape == (1, 7, 6, 5)


def test_an_identity_affine_leaves_spacing_unknown_and_says_so(
    broken: ModuleType, tmp_path: Path
) -> None:
    path = broken.nifti(tmp_path / "s.nii.gz", affine=np.eye(4))
    header = read_header(ScanFile((path,), "nifti"))
    assert header.spacing is None
    assert header.affine is None
    assert header.notes == ("no voxel spacing: the affine is the identity",)
    assert np.array_equal(read(path).array[0], broken.voxels())


@pytest.mark.parametrize(("unit", "edge"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)])
def test_spacing_is_in_millimetres_whatever_the_unit_of_the_file(
    broken: ModuleType, tmp_path: Path, unit: str, edge: float
) -> None:
    image = nib.Nifti1Image(broken.voxels(), broken.AFFINE)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "s.nii.gz")
    scan = read(tmp_path / "s.nii.gz")
    assert scan.spacing == pytest.approx((0.8 * edge, 0.9 * edge, 2.5 * edge))


def test_a_missing_orientation_is_noted(broken: ModuleType, tmp_path: Path) -> None:
    broken.CASES["no_orientation"].make(tmp_path)
    header = read_header(ScanFile((tmp_path / "scan.nii",), "nifti"))
    assert header.spacing == pytest.approx((0.8, 0.9, 2.5))
    assert "no orientation" in header.notes[0]


def test_a_header_is_read_without_voxels(
    broken: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = broken.nifti(tmp_path / "s.nii.gz", broken.voxels(64, 64, 64))
    file = ScanFile((path,), "nifti")
    whole = read_header(file)
    broken.cut(path, 0.2)  # the voxels are gone, the header stands
    header = read_header(file)
    assert header.shape == whole.shape == (64, 64, 64)
    assert header.dtype == np.int16
    monkeypatch.setattr(reader, "_voxels", None)
    read_header(file)


def test_registered_modalities_are_stacked(broken: ModuleType, tmp_path: Path) -> None:
    a = broken.nifti(tmp_path / "a.nii.gz", broken.voxels(seed=1))
    flipped = broken.AFFINE.copy()
    flipped[:3, 3] += flipped[:3, 1] * 5
    flipped[:3, 1] *= -1
    b = broken.nifti(tmp_path / "b.nii.gz", broken.voxels(seed=2)[:, ::-1], flipped)
    files = tuple(ScanFile((path,), "nifti") for path in (a, b))
    scan = read_scan(Source(name="a", channels=files, subject="a", modality="MR"))
    assert scan.array.dtype == np.int16
    assert np.array_equal(scan.array[0], broken.voxels(seed=1)[::-1])
    assert np.array_equal(scan.array[1], broken.voxels(seed=2)[::-1])
    assert scan.modality == "MR"


def test_channels_of_different_scale_become_intensities(broken: ModuleType, tmp_path: Path) -> None:
    broken.nifti(tmp_path / "a.nii.gz", broken.voxels(seed=1))
    image = nib.Nifti1Image(broken.voxels(seed=2), broken.AFFINE)
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "b.nii.gz")
    files = tuple(ScanFile((tmp_path / name,), "nifti") for name in ("a.nii.gz", "b.nii.gz"))
    scan = read_scan(Source(name="a", channels=files, subject="a"))
    assert scan.array.dtype == np.float32
    assert (scan.slope, scan.intercept) == (1.0, 0.0)
    expected = nib.as_closest_canonical(nib.load(tmp_path / "b.nii.gz")).get_fdata()
    np.testing.assert_allclose(scan.array[1], expected)


def test_channels_on_other_grids_are_refused(broken: ModuleType, tmp_path: Path) -> None:
    a = ScanFile((broken.nifti(tmp_path / "a.nii.gz"),), "nifti")
    small = ScanFile((broken.nifti(tmp_path / "b.nii.gz", broken.voxels(7, 6, 4)),), "nifti")
    moved = broken.AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3)
    away = ScanFile((broken.nifti(tmp_path / "c.nii.gz", affine=moved),), "nifti")
    with pytest.raises(ScanError, match=r"b\.nii\.gz has 7 x 6 x 4 voxels"):
        read_scan(Source(name="a", channels=(a, small), subject="a"))
    with pytest.raises(ScanError, match=r"c\.nii\.gz lies elsewhere"):
        read_scan(Source(name="a", channels=(a, away), subject="a"))
