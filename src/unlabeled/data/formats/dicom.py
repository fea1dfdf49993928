"""DICOM: single files, series of slices, enhanced multi-frame files, cine loops; compressed or not.

A file or series whose frames have a place in the patient is a volume (column, row, slice); anything else is a picture
(row, column), or for several frames (row, column, frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from unlabeled.data.formats import dicom_tags
from unlabeled.data.formats.contents import Stored, guarded
from unlabeled.data.formats.dicom_stack import series_name, stack
from unlabeled.data.formats.dicom_tags import Plane, read_tags
from unlabeled.data.formats.series import group_series
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

__all__ = ["group_series", "inspect", "load"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which frames to read, in which order."""

    stored: Stored
    tags: Dataset
    planes: tuple[Plane, ...]


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the headers; see `Reader`."""
    with guarded(file.path, "DICOM"):
        return _plan(file, frame).stored


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read headers and pixels; see `Reader`."""
    with guarded(file.path, "DICOM"):
        plan = _plan(file, frame)
        stored, tags = plan.stored, plan.tags
        rows, columns = int(tags.Rows), int(tags.Columns)
        voxels = np.empty((len(plan.planes), rows, columns, stored.channels), dtype=stored.dtype)
        decoded: tuple[Path, NDArray[Any]] | None = None
        rescaled = stored.dtype.kind == "f" and dicom_tags.voxel_dtype(tags).kind != "f"
        for index, plane in enumerate(plan.planes):
            if decoded is None or decoded[0] != plane.path:
                decoded = plane.path, _decode(plane.path, labels=labels)
            values = decoded[1][plane.frame]
            if values.shape != voxels.shape[1:]:
                raise ScanError(
                    f"{plane.path} has pixels of another shape than its header or series states",
                    "Export the series again.",
                )
            if rescaled and "ModalityLUTSequence" not in tags:
                values = values * np.float32(plane.slope) + np.float32(plane.intercept)
            voxels[index] = values
        if stored.affine is not None:
            return stored, voxels.transpose(3, 2, 1, 0)
        voxels = voxels.transpose(3, 1, 2, 0)
        return stored, voxels if len(stored.shape) == 3 else voxels[..., 0]


def _plan(file: ScanFile, frame: int | None) -> _Plan:
    """Read the headers of all files, and put their frames in order."""
    every = [read_tags(path) for path in file.paths]
    tags = every[0]
    planes = [
        plane
        for path, each in zip(file.paths, every, strict=True)
        for plane in dicom_tags.planes_of(each, path)
    ]
    where = series_name(file.paths)
    if len(file.paths) > 1:
        _require_alike(every, where)
    plane_shape = (int(tags.Rows), int(tags.Columns))
    colour, channels = _colour(tags)
    scales = {(plane.slope, plane.intercept) for plane in planes}
    palette = colour and int(dicom_tags.number(tags, "SamplesPerPixel", 1)) == 1
    dtype = np.dtype(np.uint8) if palette else dicom_tags.voxel_dtype(tags)
    if len(scales) > 1 or "ModalityLUTSequence" in tags:
        dtype, scales = np.dtype(np.float32), {(1.0, 0.0)}
    slope, intercept = (1.0, 0.0) if colour else scales.pop()
    notes = _notes(tags)
    affine, spacing, frames = None, None, 1
    if all(plane.placed for plane in planes):
        ordered = stack(planes, where)
        planes = [planes[i] for i in ordered.order]
        affine, notes = ordered.affine, notes + ordered.notes
        shape: tuple[int, ...] = (plane_shape[1], plane_shape[0], len(planes))
    elif len(file.paths) > 1:
        raise ScanError(
            f"{where} does not say where in the patient its slices lie",
            "List each file as a picture of its own.",
        )
    else:
        frames = len(planes)
        if frames > 1 and frame is not None:
            if not 0 <= frame < frames:
                raise ScanError(
                    f"{file.path} has no frame {frame}", f"Give a frame from 0 to {frames - 1}."
                )
            planes = [planes[frame]]
        shape = plane_shape if len(planes) == 1 else (*plane_shape, len(planes))
        spacing = _flat_spacing(tags, planes[0]) if len(planes) == 1 else None
        if len(planes) > 1:
            notes = (*notes, "frames over time: no spacing along the last axis")
    stored = Stored(
        shape=shape,
        dtype=dtype,
        channels=channels,
        affine=affine,
        spacing=spacing,
        modality=dicom_tags.modality_of(tags),
        colour=colour,
        frames=frames,
        slope=slope,
        intercept=intercept,
        notes=notes,
    )
    return _Plan(stored, tags, tuple(planes))


def _require_alike(every: list[Dataset], where: str) -> None:
    """Refuse a series whose files cannot share one array."""
    sizes = {(int(tags.Rows), int(tags.Columns)) for tags in every}
    kinds = {(dicom_tags.voxel_dtype(tags), _colour(tags)) for tags in every}
    if len(sizes) > 1 or len(kinds) > 1:
        what = "image sizes" if len(sizes) > 1 else "voxel types"
        raise ScanError(f"{where} mixes {what}", "Export each as a series of its own.")


def _colour(tags: Dataset) -> tuple[bool, int]:
    """Say whether pixels are coloured, and how many values each has."""
    samples = int(dicom_tags.number(tags, "SamplesPerPixel", 1))
    palette = str(tags.get("PhotometricInterpretation") or "") == "PALETTE COLOR"
    return (True, 3) if samples >= 3 or palette else (False, 1)


def _flat_spacing(tags: Dataset, plane: Plane) -> tuple[float, float] | None:
    """Give the pixel edges (between rows, between columns) of a picture [mm]; at the detector for radiographs."""
    edges = plane.edges
    if edges is None and tags.get("ImagerPixelSpacing"):
        edges = float(tags.ImagerPixelSpacing[0]), float(tags.ImagerPixelSpacing[1])
    regions = tags.get("SequenceOfUltrasoundRegions") or []
    if edges is None and len(regions) == 1:
        region = regions[0]
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3:
            edges = (10 * float(region.PhysicalDeltaY), 10 * float(region.PhysicalDeltaX))  # cm
    return edges if edges is not None and min(edges) > 0 else None


def _notes(tags: Dataset) -> tuple[str, ...]:
    if str(tags.get("BurnedInAnnotation") or "").upper() == "YES":
        return ("text is burned into the pixels, perhaps personal data",)
    return ()


def _decode(path: Path, *, labels: bool) -> NDArray[Any]:
    """Decode one file: ``frame row column sample``, as RGB or with large values bright."""
    data = dicom_tags.open_file(path)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError(f"{path} holds no pixels", "Export the image again, or leave it out.")
    syntax = data.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _undecodable(path, syntax.name) from None
    if not decoder.is_available:
        raise _undecodable(path, syntax.name)
    try:
        array, facts = decoder.as_array(data, raw=False)
    except RuntimeError as error:  # every decoder at hand has tried
        raise _undecodable(path, syntax.name) from error
    frames = dicom_tags.frames_of(data)
    shown = str(facts["photometric_interpretation"])
    if shown == "PALETTE COLOR" and not labels:
        array = apply_color_lut(array, data)
        if array.dtype.itemsize > 1:
            array = (array >> 8).astype(np.uint8)
    array = array.reshape(frames, int(data.Rows), int(data.Columns), -1)
    if dicom_tags.is_inverted(data):
        bits = int(dicom_tags.number(data, "BitsStored", 8 * array.dtype.itemsize))
        top = -1 if array.dtype.kind == "i" else 2**bits - 1
        array = array.dtype.type(top) - array
    if "ModalityLUTSequence" in data:
        array = apply_modality_lut(array, data).astype(np.float32)
    return np.asarray(array)


def _undecodable(path: Path, name: str) -> ScanError:
    return ScanError(
        f"{path} has compressed pixels that no installed decoder can read ({name})",
        f"Decompress it first: gdcmconv --raw '{path}' decompressed.dcm; if that fails too, it is damaged.",
    )
