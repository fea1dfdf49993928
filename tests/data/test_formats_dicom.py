"""DICOM: Hounsfield units, inverted greys, colours, series by position, multi-frame files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

from unlabeled.data.formats import (
    detect,
    geometry,
    group_series,
    read_header,
    read_mask,
    read_scan,
    write_mask,
)
from unlabeled.data.formats.dicom_stack import stack
from unlabeled.data.formats.dicom_tags import Plane
from unlabeled.data.scan import Scan, ScanFile, Source
from unlabeled.errors import ScanError

HEIGHTS = [0.0, 2.5, 5.0, 7.5, 10.0]


def read(*paths: Path, frame: int | None = None) -> Scan:
    file = ScanFile(tuple(paths), "dicom")
    return read_scan(Source(name="a", channels=(file,), subject="a", frame=frame))


def sample(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def test_a_series_becomes_one_volume_in_ras_order(broken: ModuleType, tmp_path: Path) -> None:
    paths = broken.series(tmp_path, HEIGHTS)
    scan = read(*reversed(paths))
    assert scan.array.shape == (1, 7, 6, 5)
    assert scan.array.dtype == np.int16
    assert scan.spacing == pytest.approx((0.8, 0.9, 2.5))
    assert (scan.slope, scan.intercept, scan.modality) == (1.0, -1024.0, "CT")
    # Columns run to the patient's left and rows to the back, against right and anterior.
    for level in range(5):
        stored = broken.voxels(6, 7, seed=level)
        assert np.array_equal(scan.array[0, :, :, level], stored.T[::-1, ::-1])
    # LPS (-40, 30, 0) of the first pixel is RAS (40, -30, 0); it is the last along both flipped axes.
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine @ [6, 5, 0, 1], [40, -30, 0, 1], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    pixel=st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 3)),
    order=st.permutations(range(4)),
)
def test_every_pixel_of_a_stack_lies_where_its_slice_says(
    angles: tuple[float, ...], pixel: tuple[int, ...], order: list[int]
) -> None:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        step = np.eye(3)
        others = [i for i in range(3) if i != axis]
        step[np.ix_(others, others)] = [[c, -s], [s, c]]
        turn = turn @ step
    axes, normal = turn[:2], np.cross(turn[0], turn[1])
    planes = [
        Plane(Path("a"), 0, np.array([5.0, -7, 3]) + 2.5 * i * normal, axes, (0.9, 0.8), 2.5, 1, 0)
        for i in order
    ]
    found = stack(planes, "a")
    row, column, level = pixel
    place = planes[found.order[level]].position
    assert place is not None
    lps = place + row * 0.9 * axes[1] + column * 0.8 * axes[0]
    world = found.affine @ [column, row, level, 1]
    np.testing.assert_allclose(world[:3], lps * [-1, -1, 1], atol=1e-8)
    assert geometry.spacing_of(found.affine) == pytest.approx((0.8, 0.9, 2.5))


def test_a_tilted_gantry_gives_a_sheared_grid_and_a_note(
    broken: ModuleType, tmp_path: Path
) -> None:
    paths = [
        broken.dicom(
            tmp_path / f"{i}.dcm",
            broken.voxels(6, 7, seed=i),
            ImagePositionPatient=[-40, 30 + i, 2.5 * i],
        )
        for i in range(5)
    ]
    header = read_header(ScanFile(tuple(paths), "dicom"))
    assert header.notes == ("the axes are not perpendicular (gantry tilt or shear)",)
    assert header.affine is not None
    np.testing.assert_allclose(header.affine[:3, 2], [0, -1, 2.5], atol=1e-9)


def test_hounsfield_units_are_those_of_a_reference() -> None:
    path = sample("CT_small.dcm")
    scan = read(path)
    data = pydicom.dcmread(path)
    expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert np.array_equal(scan.intensities()[0], expected.T[::-1, ::-1])
    assert scan.array.dtype == np.int16
    assert scan.spacing == pytest.approx(tuple(float(edge) for edge in data.PixelSpacing))


def test_slopes_that_change_from_slice_to_slice_are_applied(
    broken: ModuleType, tmp_path: Path
) -> None:
    for i, slope in enumerate((1.0, 2.0, 4.0)):
        broken.dicom(
            tmp_path / f"{i}.dcm",
            broken.voxels(6, 7, seed=i),
            Modality="PT",
            RescaleSlope=slope,
            RescaleIntercept=0,
            ImagePositionPatient=[-40, 30, 2.5 * i],
        )
    scan = read(*sorted(tmp_path.iterdir()))
    assert scan.array.dtype == np.float32
    assert (scan.slope, scan.intercept) == (1.0, 0.0)
    for i, slope in enumerate((1.0, 2.0, 4.0)):
        expected = broken.voxels(6, 7, seed=i).T[::-1, ::-1] * slope
        np.testing.assert_allclose(scan.array[0, :, :, i], expected)


def test_a_table_of_values_is_applied(broken: ModuleType, tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.add_new("LUTData", "OW", (3 * np.arange(256, dtype="<u2")).tobytes())
    path = broken.dicom(
        tmp_path / "a.dcm",
        broken.voxels(6, 7, dtype=np.uint8),
        Modality="CR",
        RescaleSlope=None,
        RescaleIntercept=None,
        ModalityLUTSequence=[table],
    )
    assert np.array_equal(read(path).intensities()[0], 3.0 * broken.voxels(6, 7))


def test_doses_are_in_their_unit() -> None:
    data = pydicom.dcmread(sample("rtdose.dcm"))
    scan = read(sample("rtdose.dcm"))
    assert scan.spacing == pytest.approx((10, 10, 5))
    doses = data.pixel_array * float(data.DoseGridScaling)
    assert scan.intensities().max() == pytest.approx(doses.max(), rel=1e-6)
    assert scan.intensities().sum() == pytest.approx(doses.sum(), rel=1e-4)


@pytest.mark.parametrize(("kind", "top"), [("u1", 255), ("u2", 4095), ("i2", -1)])
def test_radiographs_with_white_as_zero_are_inverted(
    broken: ModuleType, tmp_path: Path, kind: str, top: int
) -> None:
    array = broken.voxels(6, 7, dtype=kind)
    path = broken.dicom(
        tmp_path / "a.dcm",
        array,
        Modality="DX",
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=8 if kind == "u1" else 12,
        HighBit=7 if kind == "u1" else 11,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    scan = read(path)
    assert scan.array.shape == (1, 6, 7)
    assert scan.array.dtype == np.dtype(kind)
    assert np.array_equal(scan.array[0], top - array)
    assert scan.modality == "XR"
    assert scan.spacing == pytest.approx((0.9, 0.8))
    assert scan.affine is None


def test_a_radiograph_is_a_picture_whatever_position_it_states(
    broken: ModuleType, tmp_path: Path
) -> None:
    scan = read(broken.dicom(tmp_path / "a.dcm", Modality="CR"))
    assert np.array_equal(scan.array[0], broken.voxels(6, 7))
    assert scan.affine is None
    assert scan.spacing == pytest.approx((0.9, 0.8))


def test_values_with_a_unit_are_not_inverted(broken: ModuleType, tmp_path: Path) -> None:
    plain = read(broken.dicom(tmp_path / "a.dcm"))
    shown = read(broken.dicom(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(plain.array, shown.array)


def test_an_enhanced_file_is_a_volume_with_its_own_scale(
    broken: ModuleType, tmp_path: Path
) -> None:
    broken.CASES["enhanced_file"].make(tmp_path)
    scan = read(tmp_path / "scan.dcm")
    assert scan.array.shape == (1, 7, 6, 5)
    assert scan.spacing == pytest.approx((0.8, 0.9, 2.5))
    assert (scan.slope, scan.intercept) == (2.0, -1000.0)
    stored = broken.voxels(5, 6, 7)
    assert np.array_equal(scan.array[0], stored.transpose(2, 1, 0)[::-1, ::-1])


def test_a_cine_loop_has_its_frames_last_and_gives_single_ones(
    broken: ModuleType, tmp_path: Path
) -> None:
    broken.CASES["cine_loop"].make(tmp_path)
    stored = broken.voxels(4, 6, 7, dtype=np.uint8)
    header = read_header(ScanFile((tmp_path / "scan.dcm",), "dicom"))
    assert (header.shape, header.frames, header.spacing) == ((6, 7, 4), 4, None)
    assert "frames over time" in header.notes[0]
    scan = read(tmp_path / "scan.dcm")
    assert np.array_equal(scan.array[0], stored.transpose(1, 2, 0))
    assert np.array_equal(read(tmp_path / "scan.dcm", frame=3).array[0], stored[3])


@pytest.mark.parametrize("name", ["examples_palette.dcm", "examples_ybr_color.dcm"])
def test_palettes_and_luma_chroma_become_rgb(name: str) -> None:
    header = read_header(ScanFile((sample(name),), "dicom"))
    scan = read(sample(name), frame=0)
    assert header.colour
    assert header.channels == 3
    assert scan.array.dtype == np.uint8
    data = pydicom.dcmread(sample(name))
    if "palette" in name:
        table = pydicom.pixels.processing.apply_color_lut(data.pixel_array, data)
        expected = (table >> 8) if table.dtype.itemsize > 1 else table
        assert np.array_equal(scan.array, np.moveaxis(expected, -1, 0))
    else:
        stored = pydicom.pixels.utils.pixel_array(sample(name), index=0, raw=True).astype(float)
        luma, blue, red = stored[..., 0], stored[..., 1] - 128, stored[..., 2] - 128
        weights = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
        expected = np.clip(np.stack(weights), 0, 255)
        assert np.abs(scan.array - expected).max() <= 1


def test_compressed_pixels_are_those_of_the_uncompressed_file(tmp_path: Path) -> None:
    plain = read(sample("MR_small.dcm"))
    for name in (
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_expb.dcm",
    ):
        assert np.array_equal(read(sample(name)).array, plain.array), name
    data = pydicom.dcmread(sample("CT_small.dcm"))
    data.compress(RLELossless)
    data.save_as(tmp_path / "rle.dcm")
    assert np.array_equal(read(tmp_path / "rle.dcm").array, read(sample("CT_small.dcm")).array)


def test_a_mask_for_a_series_is_written_as_nifti_on_its_grid(
    broken: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    scan = read(*broken.series(tmp_path / "s", HEIGHTS))
    labels = (scan.array[0] > 100).astype(np.uint8)
    write_mask(tmp_path / "m.nii.gz", labels, scan.grid, scan.affine)
    stored = nib.load(tmp_path / "m.nii.gz")
    assert stored.shape == (7, 6, 5)
    np.testing.assert_allclose(stored.affine @ [0, 0, 0, 1], [40, -30, 0, 1], atol=1e-5)
    assert np.array_equal(read_mask(ScanFile((tmp_path / "m.nii.gz",), "nifti"), scan), labels)


def test_headers_are_read_without_pixels(
    broken: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = broken.series(tmp_path, HEIGHTS)
    monkeypatch.setattr("unlabeled.data.formats.dicom._decode", None)
    header = read_header(ScanFile(tuple(paths), "dicom"))
    assert (header.shape, header.dtype) == ((7, 6, 5), np.int16)


def test_text_burned_into_the_pixels_is_noted(broken: ModuleType, tmp_path: Path) -> None:
    path = broken.dicom(tmp_path / "a.dcm", BurnedInAnnotation="YES")
    assert "burned" in read_header(ScanFile((path,), "dicom")).notes[0]


def test_ultrasound_regions_give_the_spacing(broken: ModuleType, tmp_path: Path) -> None:
    region = pydicom.Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    path = broken.dicom(
        tmp_path / "a.dcm",
        Modality="US",
        PixelSpacing=None,
        SequenceOfUltrasoundRegions=[region],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    assert read_header(ScanFile((path,), "dicom")).spacing == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize("named", [True, False])
def test_every_one_of_pydicoms_own_files_is_read_or_refused(
    named: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files that are no DICOM are tried as well; what is not read says why and what to do."""
    files = [Path(name) for name in pydicom.data.get_testdata_files() if Path(name).is_file()]
    assert len(files) > 100
    read_files = 0
    for path in files:
        kind = detect(path) if named else "dicom"
        if kind is None:
            continue
        file = ScanFile((path,), kind)
        try:
            header = read_header(file)
            scan = read_scan(Source(name="a", channels=(file,), subject=""))
        except ScanError as error:
            said = error.fact, error.remedy
        else:
            assert scan.array.shape == (header.channels, *header.shape)
            assert scan.array.dtype == header.dtype
            read_files += 1
            continue
        assert str(path) in said[0]
        assert said[1]
    assert read_files >= 80
    assert capfd.readouterr() == ("", "")
    found, refused = group_series([path for path in files if detect(path) == "dicom"])
    assert sum(len(series.file.paths) for series in found) > 50
    assert all(row.remedy for row in refused)
