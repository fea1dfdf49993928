"""The headers of DICOM files: only the tags that geometry, intensities and grouping need, and nothing personal kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from unlabeled.data.formats.contents import damaged, guarded, require_file
from unlabeled.errors import ScanError

TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "DoseGridScaling",
    "GridFrameOffsetVector",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "SequenceOfUltrasoundRegions",
    "BurnedInAnnotation",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "DiffusionBValue",
    "AcquisitionNumber",
    "AcquisitionTime",
    "InstanceNumber",
]

# Attributes that tell apart the volumes of one series, tried in this order.
TELLS_APART = (
    "ImageType",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "DiffusionBValue",
    "AcquisitionNumber",
    "AcquisitionTime",
)

_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "PX", "IO"})
_QUANTITATIVE = frozenset({"CT", "PT", "NM", "RTDOSE"})  # their stored values mean something
_NO_SCANS = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "ECG", "DOC"})
# One frame of these is a projection or a photograph, whatever position the header may state.
_PICTURES = frozenset({"XR", "MG", "XA", "RF", "US", "ES", "XC", "OP", "GM", "SM"})
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame of one file: where it lies and how its values are scaled.

    Parameters
    ----------
    path, frame
        File, and number of the frame in it.
    position
        Centre of the first pixel [mm], LPS; None where the file does not say.
    axes
        Directions of growing column and row index, 2x3; likewise.
    edges
        Distances between rows and between columns [mm].
    thickness
        Distance of slices, or their thickness [mm], as the header states it.
    """

    path: Path
    frame: int
    position: NDArray[np.float64] | None
    axes: NDArray[np.float64] | None
    edges: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float

    @property
    def placed(self) -> bool:
        """Whether the frame's place in the patient is known."""
        return self.position is not None and self.axes is not None and self.edges is not None


def read_tags(path: Path) -> Dataset:
    """Read the header of a DICOM image.

    Raises
    ------
    ScanError
        The file is damaged, or holds no image (a report, a structure set, a directory, a segmentation).
    """
    size = require_file(path)
    with guarded(path, "DICOM"):
        tags = open_file(path, stop_before_pixels=True, specific_tags=list(TAGS))
        _require_image(tags, path)
        _require_length(tags, path, size)
    return tags


def open_file(path: Path, **how: Any) -> Dataset:
    """Open a DICOM file, with or without its preamble, and state how its values are encoded."""
    try:
        data: Dataset = pydicom.dcmread(path, **how)
    except InvalidDicomError:
        data = pydicom.dcmread(path, force=True, **how)
        if "SOPClassUID" not in data and "Rows" not in data:
            raise damaged(path, "DICOM") from None
    if not getattr(data.file_meta, "TransferSyntaxUID", None):
        implicit, little = data.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return data


def number(data: Dataset, name: str, otherwise: float) -> float:
    """Give a tag as a number; `otherwise` where it is absent or empty."""
    value = data.get(name)
    return otherwise if value is None or value == "" else float(value)


def frames_of(tags: Dataset) -> int:
    """Count the frames of a file."""
    return max(1, int(number(tags, "NumberOfFrames", 1)))


def modality_of(tags: Dataset) -> str:
    """Give the modality; all kinds of radiographs are ``XR``."""
    modality = str(tags.get("Modality") or "").strip().upper()
    return "XR" if modality in _RADIOGRAPHS else modality


def is_inverted(tags: Dataset) -> bool:
    """Whether small values are meant to be shown bright and carry no physical unit.

    Values of CT (HU), PET, dose and counts keep their meaning however they are to be shown.
    """
    shown = str(tags.get("PhotometricInterpretation") or "")
    return shown == "MONOCHROME1" and modality_of(tags) not in _QUANTITATIVE


def voxel_dtype(tags: Dataset) -> np.dtype[Any]:
    """Give the type of the stored voxels."""
    bits = int(number(tags, "BitsAllocated", 16))
    if "PixelRepresentation" not in tags and bits >= 32:
        return np.dtype(np.float32)  # Float Pixel Data
    signed = int(number(tags, "PixelRepresentation", 0)) == 1
    return np.dtype(f"{'i' if signed else 'u'}{max(1, bits // 8)}")


def planes_of(tags: Dataset, path: Path) -> list[Plane]:
    """Give place and scale of each frame."""
    frames = frames_of(tags)
    shared = _first(tags, "SharedFunctionalGroupsSequence")
    each = tags.get("PerFrameFunctionalGroupsSequence") or []
    offsets = tags.get("GridFrameOffsetVector")
    planes = []
    for frame in range(frames):
        groups = [each[frame]] if frame < len(each) else []
        planes.append(_plane(path, frame, [*groups, shared], tags))
    if frames == 1 and modality_of(tags) in _PICTURES:
        return [_displaced(plane, None) for plane in planes]
    if frames > 1 and not each:
        if offsets is None or len(offsets) != frames:
            return [_displaced(plane, None) for plane in planes]
        return [_displaced(plane, float(offsets[plane.frame])) for plane in planes]
    return planes


def _plane(path: Path, frame: int, groups: list[Dataset], tags: Dataset) -> Plane:
    def find(sequence: str, name: str) -> Any:
        for group in groups:
            value = _first(group, sequence).get(name)
            if value is not None:
                return value
        return tags.get(name)

    position = _vector(find("PlanePositionSequence", "ImagePositionPatient"), 3)
    axes = _vector(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    edges = _vector(find("PixelMeasuresSequence", "PixelSpacing"), 2)
    between = find("PixelMeasuresSequence", "SpacingBetweenSlices")
    thickness = find("PixelMeasuresSequence", "SliceThickness")
    slope = find("PixelValueTransformationSequence", "RescaleSlope")
    intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
    dose = number(tags, "DoseGridScaling", 1.0)
    stated = [abs(float(value)) for value in (between, thickness) if value not in (None, "")]
    return Plane(
        path=path,
        frame=frame,
        position=position,
        axes=None if axes is None else axes.reshape(2, 3),
        edges=None if edges is None else (float(edges[0]), float(edges[1])),
        thickness=next((value for value in stated if value > 0), None),
        slope=dose if slope in (None, "") else float(slope),
        intercept=0.0 if intercept in (None, "") else float(intercept),
    )


def _displaced(plane: Plane, offset: float | None) -> Plane:
    """Move a frame along the normal, as dose grids state it; without an offset its place is unknown."""
    position = None
    if offset is not None and plane.position is not None and plane.axes is not None:
        position = plane.position + offset * np.cross(plane.axes[0], plane.axes[1])
    return Plane(
        plane.path,
        plane.frame,
        position,
        plane.axes,
        plane.edges,
        plane.thickness,
        plane.slope,
        plane.intercept,
    )


def _first(data: Dataset, sequence: str) -> Dataset:
    items = data.get(sequence)
    return items[0] if items else Dataset()


def _vector(value: Any, length: int) -> NDArray[np.float64] | None:
    if value is None or value == "" or len(value) != length:
        return None
    return np.asarray([float(item) for item in value])


def _require_image(tags: Dataset, path: Path) -> None:
    if str(tags.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise ScanError(
            f"{path} is a table of contents (DICOMDIR), no image",
            "Give the folder of the images that it lists.",
        )
    modality = modality_of(tags)
    kind = pydicom.uid.UID(str(tags.get("SOPClassUID", ""))).name.removesuffix(" Storage")
    if modality in _NO_SCANS:
        raise ScanError(
            f"{path} holds no scan but {modality} ({kind or 'unknown'})",
            "Leave it out; masks are read from NIfTI or PNG.",
        )
    if number(tags, "Rows", 0) < 1 or number(tags, "Columns", 0) < 1:
        raise ScanError(
            f"{path} holds no pixels (kind of object: {kind or 'unknown'})",
            "Leave it out, or export it again with its image.",
        )
    if int(number(tags, "BitsAllocated", 16)) not in (1, 8, 16, 32, 64):
        raise ScanError(f"{path} states an impossible number of bits", "Export the scan again.")


def _require_length(tags: Dataset, path: Path, size: int) -> None:
    """Notice an uncompressed file that breaks off, without reading it."""
    syntax = tags.file_meta.TransferSyntaxUID
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        return
    samples = int(number(tags, "SamplesPerPixel", 1))
    if "422" in str(tags.get("PhotometricInterpretation") or ""):
        samples = 2
    bits = int(number(tags, "BitsAllocated", 16))
    needed = int(tags.Rows) * int(tags.Columns) * samples * bits * frames_of(tags) // 8
    if size < needed:
        raise ScanError(
            f"{path} is cut off: its pixels need {needed} bytes, the file has {size}",
            "Copy or download the file again.",
        )
