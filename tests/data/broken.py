"""Damaged and unusual files, each with what has to come of it; `conftest.py` gives them to the tests.

``CASES[name].make(folder)`` writes the files.  ``CASES[name].ends``: ``refused`` (a reason and a remedy, no scan), ``read``
(a scan), ``ignored`` (not taken for a scan at all), ``partly`` (a scan, and a reason for some other file).
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PATIENT = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "KH-471108",
    "PatientBirthDate": "19640812",
}
CT = "1.2.840.10008.5.1.4.1.1.2"
AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.9, 0, -30], [0, 0, 2.5, 12], [0, 0, 0, 1.0]])


@dataclass(frozen=True)
class Case:
    """One kind of input: its maker, how it ends, and words that the reason must hold."""

    make: Callable[[Path], Any]
    ends: str
    says: str


CASES: dict[str, Case] = {}


def case(ends: str, says: str = "") -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Enter a maker into the corpus under its own name."""

    def enter(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES[make.__name__] = Case(make, ends, says)
        return make

    return enter


def voxels(*shape: int, dtype: Any = np.int16, seed: int = 0) -> Any:
    """Make voxels that differ."""
    return np.random.default_rng(seed).integers(0, 200, shape or (7, 6, 5)).astype(dtype)


def nifti(path: Path, array: Any = None, affine: Any = AFFINE) -> Path:
    """Write a NIfTI file."""
    array = voxels() if array is None else array
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def dicom(path: Path, array: Any = None, **tags: Any) -> Path:
    """Write an uncompressed DICOM file; tags set to None are left out."""
    array = voxels(6, 7) if array is None else array
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = tags.pop("SOPClassUID", CT)
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = tags.pop(
        "SOPInstanceUID", generate_uid()
    )
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.5"
    image.Modality, image.PhotometricInterpretation, image.SamplesPerPixel = "CT", "MONOCHROME2", 1
    image.Rows, image.Columns = array.shape[:2] if array.ndim == 2 else array.shape[1:3]
    image.BitsAllocated = image.BitsStored = 8 * array.dtype.itemsize
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(array.dtype.kind == "i")
    image.PixelSpacing, image.SliceThickness = [0.9, 0.8], 2.5
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-40, 30, 12]
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = array.tobytes()
    for name, value in {**PATIENT, **tags}.items():
        if value is None:
            image.pop(name, None)
        else:
            setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, heights: list[float], **tags: Any) -> list[Path]:
    """Write axial slices at these heights [mm], out of order by name."""
    paths = []
    for number, height in enumerate(heights):
        path = folder / f"{(number * 7) % 100:02d}.dcm"
        array = voxels(6, 7, seed=number)
        paths.append(dicom(path, array, ImagePositionPatient=[-40, 30, height], **tags))
    return paths


def cut(path: Path, share: float = 0.5) -> Path:
    """Break a file off."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def patched(path: Path, at: int, data: bytes) -> Path:
    """Overwrite some bytes."""
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(bytes(whole))
    return path


def picture(path: Path, array: Any, mode: str | None = None, **how: Any) -> Path:
    """Write a picture."""
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **how)
    return path


def tiff(path: Path, array: Any, **how: Any) -> Path:
    """Write a TIFF file."""
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "metadata": None, **how})
    return path


def array_file(path: Path, array: Any, **how: Any) -> Path:
    """Write a NumPy file."""
    np.save(path, array, **how)
    return path


# NIfTI ---------------------------------------------------------------------------------------------------------------


@case("refused", "damaged")
def truncated_gzip(folder: Path) -> Any:
    return cut(nifti(folder / "scan.nii.gz", voxels(20, 20, 20)))


@case("refused", "damaged")
def corrupt_gzip(folder: Path) -> Any:
    path = nifti(folder / "scan.nii.gz", voxels(20, 20, 20))
    return patched(path, path.stat().st_size // 2, b"\x00\xff" * 40)


@case("refused", "damaged")
def gzip_of_text(folder: Path) -> Any:
    (folder / "scan.nii.gz").write_bytes(gzip.compress(b"no scan at all" * 100))


@case("refused", "damaged")
def text_named_nifti(folder: Path) -> Any:
    (folder / "scan.nii.gz").write_text("error 404: not found")


@case("refused", "damaged")
def wrong_magic(folder: Path) -> Any:
    return patched(nifti(folder / "scan.nii"), 344, b"xyz\x00")


@case("refused", "empty")
def zero_bytes(folder: Path) -> Any:
    (folder / "scan.nii.gz").touch()


@case("refused", "cut off")
def truncated_nifti(folder: Path) -> Any:
    return cut(nifti(folder / "scan.nii"), 0.9)


@case("refused", "cut off")
def impossible_size(folder: Path) -> Any:
    path = nifti(folder / "scan.nii")
    return patched(path, 42, np.array([30000, 30000, 30000], "<i2").tobytes())


@case("refused", "damaged")
def header_alone(folder: Path) -> Any:
    path = nifti(folder / "scan.nii")
    path.write_bytes(path.read_bytes()[:100])


@case("refused", "no voxels")
def axis_without_voxels(folder: Path) -> Any:
    return patched(nifti(folder / "scan.nii"), 46, b"\x00\x00")


@case("refused", "NaN")
def nan_voxels(folder: Path) -> Any:
    array = voxels(dtype=np.float32)
    array[2, 3, 1] = np.nan
    return nifti(folder / "scan.nii.gz", array)


@case("refused", "infinite")
def infinite_voxels(folder: Path) -> Any:
    array = voxels(dtype=np.float32)
    array[2, 3, 1] = -np.inf
    return nifti(folder / "scan.nii.gz", array)


@case("refused", "same value")
def constant(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", np.full((7, 6, 5), 3, np.int16))


@case("refused", "same value")
def one_voxel(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(1, 1, 1))


@case("read")
def one_voxel_axis(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 1, 5))


@case("read")
def two_one_voxel_axes(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 1, 1))


@case("refused", "4 volumes")
def time_axis(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 6, 5, 4))


@case("read")
def trailing_axis_of_one(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 6, 5, 1))


@case("refused", "5 axes")
def five_axes(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 6, 5, 1, 3))


@case("refused", "1 axes")
def one_axis(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(70))


@case("read")
def two_axes(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(7, 6))


@case("read")
def identity_affine(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", affine=np.eye(4))


@case("refused", "singular")
def singular_affine(folder: Path) -> Any:
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0]
    return nifti(folder / "scan.nii.gz", affine=affine)


@case("refused", "zero voxel spacing")
def zero_spacing(folder: Path) -> Any:
    path = patched(nifti(folder / "scan.nii"), 252, b"\x00" * 4)  # neither qform nor sform
    return patched(path, 80, np.zeros(3, "<f4").tobytes())


@case("refused", "zero voxel spacing")
def affine_of_zeros(folder: Path) -> Any:
    return patched(nifti(folder / "scan.nii"), 280, b"\x00" * 48)


@case("refused", "no numbers")
def nan_affine(folder: Path) -> Any:
    return patched(nifti(folder / "scan.nii"), 280, np.full(12, np.nan, "<f4").tobytes())


@case("read")
def no_orientation(folder: Path) -> Any:
    return patched(nifti(folder / "scan.nii"), 252, b"\x00" * 4)


@case("read")
def big_endian(folder: Path) -> Any:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(voxels(), AFFINE, header), folder / "scan.nii.gz")


@case("read")
def float64(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(dtype=np.float64) / 3)


@case("read")
def int64(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels(dtype=np.int64))


@case("read")
def nifti_of_colours(folder: Path) -> Any:
    colours = voxels(7, 6, 5, 3, dtype=np.uint8).view([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nifti(folder / "scan.nii.gz", colours[..., 0])


@case("refused", "complex")
def complex_voxels(folder: Path) -> Any:
    return nifti(folder / "scan.nii.gz", voxels().astype(np.complex64))


@case("read")
def pair(folder: Path) -> Any:
    nib.save(nib.Nifti1Pair(voxels(), AFFINE), folder / "scan.hdr")


@case("refused", "half of a pair")
def header_without_voxels(folder: Path) -> Any:
    pair(folder)
    (folder / "scan.img").unlink()


@case("refused", "half of a pair")
def voxels_without_header(folder: Path) -> Any:
    pair(folder)
    (folder / "scan.hdr").unlink()


@case("refused", "Analyze")
def analyze_pair(folder: Path) -> Any:
    nib.save(nib.AnalyzeImage(voxels(), AFFINE), folder / "scan.hdr")


# Names and the file system -------------------------------------------------------------------------------------------
@case("refused", "is a folder")
def folder_named_as_scan(folder: Path) -> Any:
    (folder / "scan.nii.gz").mkdir()


@case("refused", "leads to itself")
def symlink_loop(folder: Path) -> Any:
    (folder / "a.nii.gz").symlink_to(folder / "b.nii.gz")
    (folder / "b.nii.gz").symlink_to(folder / "a.nii.gz")


@case("refused", "not there")
def dangling_symlink(folder: Path) -> Any:
    (folder / "scan.nii.gz").symlink_to(folder / "gone.nii.gz")


@case("refused", "pipe")
def named_pipe(folder: Path) -> Any:
    os.mkfifo(folder / "scan.nii.gz")


@case("read")
def unicode_name(folder: Path) -> Any:
    return nifti(folder / "Schädel-脑 'x' é.nii.gz")


@case("read")
def long_name(folder: Path) -> Any:
    return nifti(folder / ("n" * 240 + ".nii.gz"))


@case("ignored")
def resource_fork(folder: Path) -> Any:
    (folder / "._scan.nii.gz").write_bytes(b"\x00\x05\x16\x07" * 20)


@case("ignored")
def notes_and_tables(folder: Path) -> Any:
    (folder / "README").write_text("Scans of a study\n" * 50)
    (folder / "scans.csv").write_text("image\n")
