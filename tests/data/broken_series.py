"""The DICOM and ITK part of the corpus of broken input; see `broken.py`."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

EVEN = [0.0, 2.5, 5.0, 7.5, 10.0]
SAGITTAL = [0, 1, 0, 0, 0, -1]
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def enhanced(make: ModuleType, path: Path, heights: list[float], **tags: Any) -> Path:
    """Write an enhanced multi-frame file with one axial frame at each height [mm]."""
    measures, orientation, scale, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.9, 0.8], 2.5
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 2, -1000, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [scale]
    frames = []
    for height in heights:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [-40, 30, height]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    absent = dict.fromkeys(
        (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            "RescaleSlope",
            "RescaleIntercept",
        )
    )
    return make.dicom(
        path,
        make.voxels(len(heights), 6, 7),
        SOPClassUID=ENHANCED_CT,
        NumberOfFrames=len(heights),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **absent,
        **tags,
    )


def cases(make: ModuleType) -> dict[str, Any]:
    """Give the cases by name."""
    found: dict[str, Any] = {}

    def case(ends: str, says: str = "") -> Any:
        def enter(function: Any) -> Any:
            found[function.__name__] = make.Case(function, ends, says)
            return function

        return enter

    @case("read")
    def even_series(folder: Path) -> Any:
        return make.series(folder, EVEN)

    @case("refused", "misses 1 slice:")
    def missing_slice(folder: Path) -> Any:
        return make.series(folder, [0.0, 2.5, 5.0, 10.0, 12.5])

    @case("refused", "misses 3 slices:")
    def missing_slices(folder: Path) -> Any:
        return make.series(folder, [0.0, 2.5, 5.0, 15.0, 17.5])

    @case("refused", "2 slices at the same position")
    def duplicated_slice(folder: Path) -> Any:
        return make.series(folder, [0.0, 2.5, 2.5, 5.0])

    @case("partly", "copy of the same slice")
    def copied_file(folder: Path) -> Any:
        shutil.copy(make.series(folder, EVEN)[2], folder / "copy.dcm")

    @case("refused", "mixes slice distances")
    def mixed_distances(folder: Path) -> Any:
        return make.series(folder, [0.0, 1.0, 2.0, 3.0, 8.0, 13.0, 18.0])

    @case("refused", "mixes pixel spacings")
    def mixed_pixel_spacing(folder: Path) -> Any:
        make.series(folder, EVEN)
        make.dicom(folder / "x.dcm", ImagePositionPatient=[-40, 30, 12.5], PixelSpacing=[0.5, 0.5])

    @case("refused", "mixes slice orientations")
    def mixed_orientation(folder: Path) -> Any:
        make.series(folder, EVEN)
        make.dicom(folder / "x.dcm", ImageOrientationPatient=SAGITTAL)

    @case("refused", "mixes image sizes")
    def mixed_sizes(folder: Path) -> Any:
        make.series(folder, EVEN)
        make.dicom(folder / "x.dcm", make.voxels(9, 9), ImagePositionPatient=[-40, 30, 12.5])

    @case("refused", "shifted sideways")
    def shifted_slices(folder: Path) -> Any:
        make.series(folder, EVEN)
        make.dicom(folder / "x.dcm", ImagePositionPatient=[-20, 30, 12.5])

    @case("refused", "zero pixel spacing")
    def zero_pixel_spacing(folder: Path) -> Any:
        return make.series(folder, EVEN, PixelSpacing=[0, 0])

    @case("refused", "singular orientation")
    def singular_orientation(folder: Path) -> Any:
        return make.series(folder, EVEN, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])

    @case("read")
    def several_volumes_in_a_series(folder: Path) -> Any:
        for echo in (1, 2):
            (folder / str(echo)).mkdir()
            make.series(folder / str(echo), EVEN, EchoNumbers=echo)

    @case("read")
    def enhanced_file(folder: Path) -> Any:
        return enhanced(make, folder / "scan.dcm", EVEN)

    @case("refused", "same position")
    def enhanced_file_of_two_volumes(folder: Path) -> Any:
        return enhanced(make, folder / "scan.dcm", EVEN + EVEN)

    @case("refused", "misses 1 slice:")
    def enhanced_file_with_a_gap(folder: Path) -> Any:
        return enhanced(make, folder / "scan.dcm", [0.0, 2.5, 5.0, 10.0])

    @case("read")
    def without_suffix(folder: Path) -> Any:
        return make.dicom(folder / "IM000001")

    @case("read")
    def without_preamble(folder: Path) -> Any:
        path = make.dicom(folder / "IM000001")
        data = pydicom.dcmread(path)
        bare = Dataset(copy.deepcopy(dict(data.items())))
        pydicom.dcmwrite(path, bare, implicit_vr=True, little_endian=True)

    @case("read")
    def without_patient(folder: Path) -> Any:
        return make.dicom(
            folder / "scan.dcm", PatientID=None, PatientName=None, PatientBirthDate=None
        )

    @case("refused", "cut off")
    def truncated_dicom(folder: Path) -> Any:
        return make.cut(make.dicom(folder / "scan.dcm", make.voxels(64, 64)))

    @case("refused", "damaged")
    def text_named_dicom(folder: Path) -> Any:
        (folder / "scan.dcm").write_text("no image at all")

    @case("refused", "no scan but")
    def report_without_image(folder: Path) -> Any:
        return make.dicom(
            folder / "scan.dcm", Modality="SR", Rows=None, Columns=None, PixelData=None
        )

    @case("refused", "holds no pixels")
    def image_without_pixels(folder: Path) -> Any:
        path = make.dicom(folder / "scan.dcm", make.voxels(2, 2))
        data = pydicom.dcmread(path)
        data.ImageComments = "x" * 2000
        del data.PixelData
        data.save_as(path)

    @case("refused", "no installed decoder")
    def unknown_compression(folder: Path) -> Any:
        path = make.dicom(folder / "scan.dcm")
        data = pydicom.dcmread(path)
        data.PixelData = pydicom.encaps.encapsulate([b"\x00\x01" * 40])
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        data.save_as(path)

    @case("refused", "table of contents")
    def table_of_contents(folder: Path) -> Any:
        shutil.copy(str(get_testdata_file("DICOMDIR", download=False)), folder / "LIST.dcm")

    @case("ignored")
    def dicomdir(folder: Path) -> Any:
        shutil.copy(str(get_testdata_file("DICOMDIR", download=False)), folder / "DICOMDIR")

    @case("read")
    def radiograph_with_white_as_zero(folder: Path) -> Any:
        return make.dicom(
            folder / "scan.dcm", Modality="DX", PhotometricInterpretation="MONOCHROME1"
        )

    @case("read")
    def cine_loop(folder: Path) -> Any:
        return make.dicom(
            folder / "scan.dcm",
            make.voxels(4, 6, 7, dtype=np.uint8),
            Modality="US",
            NumberOfFrames=4,
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
        )

    @case("refused", "damaged")
    def letters_for_numbers(folder: Path) -> Any:
        path = make.dicom(folder / "scan.dcm", RescaleSlope="1.25")
        path.write_bytes(path.read_bytes().replace(b"1.25", b"abcd"))

    @case("refused", "cut off")
    def truncated_metaimage(folder: Path) -> Any:
        return make.cut(_itk(make, folder / "scan.mha"), 0.8)

    @case("refused", "scan.raw does not exist")
    def metaimage_without_voxels(folder: Path) -> Any:
        _itk(make, folder / "scan.mhd")
        (folder / "scan.raw").unlink()

    @case("refused", "cut off")
    def text_named_nrrd(folder: Path) -> Any:
        (folder / "scan.nrrd").write_text("no scan at all")

    @case("read")
    def metaimage(folder: Path) -> Any:
        return _itk(make, folder / "a.mha")

    @case("read")
    def nrrd(folder: Path) -> Any:
        return _itk(make, folder / "scan.nrrd")

    return found


def _itk(make: ModuleType, path: Path) -> Path:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(make.voxels(5, 6, 7))
    image.SetSpacing((0.8, 0.9, 2.5))
    sitk.WriteImage(image, str(path))
    return path
