"""Pictures, TIFF, NumPy and ITK files, and telling formats apart."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from unlabeled.data.formats import Header, detect, itk, read_header, read_scan
from unlabeled.data.scan import Scan, ScanFile, Source
from unlabeled.errors import ScanError


def both(path: Path, frame: int | None = None) -> tuple[Header, Scan]:
    file = ScanFile((path,), detect(path) or "")
    scan = read_scan(Source(name=path.name, channels=(file,), subject="a", frame=frame))
    header = read_header(file, frame=frame)
    assert scan.array.shape == (header.channels, *header.shape)
    assert scan.array.dtype == header.dtype
    return header, scan


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_pictures_keep_their_values(
    broken: ModuleType, tmp_path: Path, suffix: str, kind: Any
) -> None:
    array = broken.voxels(20, 30, dtype=kind) * 1
    header, scan = both(broken.picture(tmp_path / f"p{suffix}", array))
    assert np.array_equal(scan.array[0], array)
    assert scan.array.dtype == kind
    assert (header.dims, header.spacing, header.affine, header.colour) == (2, None, None, False)
    assert scan.grid.shape == (20, 30)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_come_first(broken: ModuleType, tmp_path: Path, suffix: str) -> None:
    array = broken.voxels(20, 30, 3, dtype=np.uint8)
    header, scan = both(broken.picture(tmp_path / f"p{suffix}", array))
    assert header.colour
    assert np.array_equal(scan.array, np.moveaxis(array, -1, 0))


def test_jpeg_is_read_in_colour_and_grey(broken: ModuleType, tmp_path: Path) -> None:
    for shape, channels in (((20, 30), 1), ((20, 30, 3), 3)):
        path = broken.picture(tmp_path / "p.jpeg", broken.voxels(*shape, dtype=np.uint8))
        assert both(path)[0].channels == channels


def test_a_palette_gives_its_colours(broken: ModuleType, tmp_path: Path) -> None:
    broken.CASES["palette_picture"].make(tmp_path)
    header, scan = both(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        expected = np.asarray(image.convert("RGB"))
    assert header.colour
    assert np.array_equal(scan.array, np.moveaxis(expected, -1, 0))


def test_transparency_is_dropped_and_noted(broken: ModuleType, tmp_path: Path) -> None:
    array = broken.voxels(20, 30, 4, dtype=np.uint8)
    header, scan = both(broken.picture(tmp_path / "p.png", array))
    assert np.array_equal(scan.array, np.moveaxis(array[..., :3], -1, 0))
    assert header.notes == ("transparency was dropped",)


def test_a_rotation_mark_is_noted_and_not_applied(broken: ModuleType, tmp_path: Path) -> None:
    image = Image.fromarray(broken.voxels(20, 30, 3, dtype=np.uint8))
    marks = image.getexif()
    marks[0x0112] = 6
    image.save(tmp_path / "p.jpg", exif=marks)
    header, _ = both(tmp_path / "p.jpg")
    assert header.shape == (20, 30)
    assert "rotation" in header.notes[0]


@pytest.mark.parametrize(
    "how", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}]
)
def test_pages_of_one_size_are_a_volume(
    broken: ModuleType, tmp_path: Path, how: dict[str, Any]
) -> None:
    array = broken.voxels(5, 20, 30, dtype=np.uint16)
    header, scan = both(broken.tiff(tmp_path / "t.tif", array, **how))
    assert np.array_equal(scan.array[0], np.moveaxis(array, 0, -1))
    assert (header.frames, header.spacing, header.affine) == (5, None, None)
    _, page = both(tmp_path / "t.tif", frame=3)
    assert np.array_equal(page.array[0], array[3])
    with pytest.raises(ScanError, match="no page 5"):
        both(tmp_path / "t.tif", frame=5)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_coloured_pages_are_a_coloured_volume(
    broken: ModuleType, tmp_path: Path, planar: str
) -> None:
    array = broken.voxels(5, 20, 30, 3, dtype=np.uint8)
    stored = array if planar == "contig" else np.moveaxis(array, -1, 1)
    broken.tiff(tmp_path / "t.tif", stored, photometric="rgb", planarconfig=planar)
    header, scan = both(tmp_path / "t.tif")
    assert header.colour
    assert np.array_equal(scan.array, array.transpose(3, 1, 2, 0))


def test_channels_of_microscopes_are_channels(broken: ModuleType, tmp_path: Path) -> None:
    array = broken.voxels(4, 2, 20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "t.tif", array, imagej=True, metadata={"axes": "ZCYX"})
    _, scan = both(tmp_path / "t.tif")
    assert np.array_equal(scan.array, array.transpose(1, 2, 3, 0))
    deep = broken.voxels(3, 4, 20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "d.tif", deep, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ScanError, match="axes TZYX"):
        both(tmp_path / "d.tif")


def test_white_as_zero_is_inverted(broken: ModuleType, tmp_path: Path) -> None:
    array = broken.voxels(20, 30, dtype=np.uint8)
    _, scan = both(broken.tiff(tmp_path / "t.tif", array, photometric="miniswhite"))
    assert np.array_equal(scan.array[0], 255 - array)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiff_is_read(broken: ModuleType, tmp_path: Path, compression: str) -> None:
    array = broken.voxels(20, 30, 3, dtype=np.uint8)
    _, scan = both(broken.picture(tmp_path / "t.tif", array, compression=compression))
    assert np.array_equal(scan.array, np.moveaxis(array, -1, 0))
    pages = [Image.fromarray(page) for page in broken.voxels(4, 20, 30, dtype=np.uint8)]
    pages[0].save(
        tmp_path / "s.tif", save_all=True, append_images=pages[1:], compression=compression
    )
    _, scan = both(tmp_path / "s.tif")
    expected = np.stack([np.asarray(page) for page in pages], axis=-1)
    assert np.array_equal(scan.array[0], expected)


def test_a_palette_in_tiff_gives_its_colours(broken: ModuleType, tmp_path: Path) -> None:
    path = broken.picture(tmp_path / "t.tif", broken.voxels(20, 30, 3, dtype=np.uint8), "P")
    header, scan = both(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert header.colour
    assert np.array_equal(scan.array, np.moveaxis(expected, -1, 0))


@pytest.mark.parametrize(
    ("shape", "kind", "given"),
    [
        ((20, 30), "u1", (1, 20, 30)),
        ((20, 30, 3), "u1", (3, 20, 30)),
        ((20, 30, 4), "u1", (3, 20, 30)),
        ((20, 30, 3), "i2", (1, 20, 30, 3)),
        ((20, 30, 9), ">u2", (1, 20, 30, 9)),
        ((2, 7, 8, 9), "f8", (2, 7, 8, 9)),
        ((7, 8, 9), "f2", (1, 7, 8, 9)),
        ((7, 8), "?", (1, 7, 8)),
    ],
)
def test_axes_of_arrays(
    broken: ModuleType, tmp_path: Path, shape: tuple[int, ...], kind: str, given: tuple[int, ...]
) -> None:
    array = broken.voxels(*shape).astype(kind)
    _, scan = both(broken.array_file(tmp_path / "a.npy", array))
    assert scan.array.shape == given
    assert scan.array.dtype.isnative
    expected = np.moveaxis(array[..., :3], -1, 0) if given[0] == 3 else array.reshape(given)
    np.testing.assert_array_equal(scan.array.astype(float), expected.astype(float))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_files_lie_where_the_same_nifti_lies(
    broken: ModuleType, tmp_path: Path, suffix: str
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    broken.nifti(tmp_path / "s.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "s.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / f"s{suffix}"))
    _, expected = both(tmp_path / "s.nii.gz")
    header, scan = both(tmp_path / f"s{suffix}")
    assert scan.array.dtype == np.int16
    assert np.array_equal(scan.array, expected.array)
    np.testing.assert_allclose(scan.affine, expected.affine, atol=1e-5)
    assert header.spacing == pytest.approx(expected.spacing)


def test_itk_pictures_colours_and_unknown_geometry(broken: ModuleType, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    colours = broken.voxels(5, 20, 30, 3, dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "c.nrrd"))
    header, scan = both(tmp_path / "c.nrrd")
    assert header.colour
    assert np.array_equal(scan.array, colours.transpose(3, 2, 1, 0))
    assert header.spacing is None
    assert "identity" in header.notes[0]
    flat = sitk.GetImageFromArray(broken.voxels(20, 30))
    flat.SetSpacing((0.5, 0.25))
    sitk.WriteImage(flat, str(tmp_path / "p.mha"))
    header, scan = both(tmp_path / "p.mha")
    assert header.spacing == (0.25, 0.5)
    assert np.array_equal(scan.array[0], broken.voxels(20, 30))


def test_without_simpleitk_the_extra_is_named(
    broken: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.nrrd"
    path.write_text("NRRD0004\n")
    plain = importlib.import_module

    def absent(name: str, package: str | None = None) -> ModuleType:
        if name == "SimpleITK":
            raise ImportError(name)
        return plain(name, package)

    monkeypatch.setattr(itk, "import_module", absent)
    with pytest.raises(ScanError, match="needs SimpleITK") as caught:
        both(path)
    assert caught.value.remedy == "Install it: pip install 'unlabeled[itk]'"


def test_formats_are_told_by_name_or_by_first_bytes(broken: ModuleType, tmp_path: Path) -> None:
    assert [detect(Path(name)) for name in ("a.NII.GZ", "b.dcm", "c.JPG", "d.nrrd", "e.tiff")] == [
        "nifti",
        "dicom",
        "picture",
        "itk",
        "tiff",
    ]
    for name in ("notes.txt", "a.csv", "a.gz", "DICOMDIR", "._a.nii", ".hidden", "a.nii.txt"):
        (tmp_path / name).write_bytes(b"\x00" * 128 + b"DICM")
        assert detect(tmp_path / name) is None, name
    made = {
        "dicom": broken.dicom(tmp_path / "1.2.840.113619"),
        "picture": broken.picture(tmp_path / "p.png", broken.voxels(9, 9, dtype=np.uint8)),
        "tiff": broken.tiff(tmp_path / "t.tif", broken.voxels(9, 9, dtype=np.uint8)),
        "npy": broken.array_file(tmp_path / "a.npy", broken.voxels(9, 9)),
        "nifti": broken.nifti(tmp_path / "n.nii"),
    }
    for kind, path in made.items():
        bare = path.rename(tmp_path / f"bare{kind}")
        assert detect(bare) == kind
        both(bare)
    assert detect(tmp_path / "nothing") is None
    (tmp_path / "text").write_text("just words, and quite a few of them")
    assert detect(tmp_path / "text") is None


def test_the_header_of_a_pair_speaks_for_both(broken: ModuleType, tmp_path: Path) -> None:
    broken.CASES["pair"].make(tmp_path)
    assert detect(tmp_path / "scan.hdr") == "nifti"
    assert detect(tmp_path / "scan.img") is None
    (tmp_path / "satellite.hdr").write_text("ENVI\nsamples = 4\n")
    assert detect(tmp_path / "satellite.hdr") is None


def test_readers_come_without_torch_and_without_libraries_that_no_file_needs() -> None:
    import subprocess
    import sys

    code = (
        "import sys, unlabeled.data.formats as f; from pathlib import Path; f.detect(Path('a.nii'));"
        "print([n for n in ('torch', 'nibabel', 'pydicom', 'PIL', 'SimpleITK') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_without_a_suffix_is_read(broken: ModuleType, tmp_path: Path, kind: Any) -> None:
    nib.save(kind(broken.voxels(), broken.AFFINE), tmp_path / "n.nii")
    path = (tmp_path / "n.nii").rename(tmp_path / "n")
    _, scan = both(path)
    assert np.array_equal(scan.array[0], broken.voxels()[::-1])


def test_many_channels_of_one_plane_are_pages(broken: ModuleType, tmp_path: Path) -> None:
    array = broken.voxels(6, 20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "t.tif", array, imagej=True, metadata={"axes": "CYX"})
    header, scan = both(tmp_path / "t.tif")
    assert header.channels == 1
    assert np.array_equal(scan.array[0], np.moveaxis(array, 0, -1))
    few = broken.voxels(3, 20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "f.tif", few, imagej=True, metadata={"axes": "CYX"})
    header, scan = both(tmp_path / "f.tif")
    assert header.channels == 3
    assert np.array_equal(scan.array, few)
