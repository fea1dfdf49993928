"""NRRD, MetaImage (MHA, MHD) through SimpleITK, which comes with the extra ``itk``."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats import geometry
from unlabeled.data.formats.contents import (
    Stored,
    damaged,
    guarded,
    hushed,
    plain_dtype,
    require_file,
)
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

_READERS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
_WIDTHS = {
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the header; see `Reader`."""
    with guarded(file.path, "NRRD or MetaImage"), hushed():
        reader = _open(file.path)
        reader.ReadImageInformation()
        return _describe(reader, file.path)


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read header and voxels; see `Reader`."""
    with guarded(file.path, "NRRD or MetaImage"), hushed():
        reader = _open(file.path)
        reader.ReadImageInformation()
        stored = _describe(reader, file.path)
        image = reader.Execute()
        array = _library(file.path).GetArrayFromImage(image)  # (z) y x (component)
        if array.ndim == len(stored.shape):
            array = array[..., None]
        array = np.moveaxis(array, -1, 0)
        if len(stored.shape) == 3:
            array = array.transpose(0, 3, 2, 1)
        return stored, array[: stored.channels]


def _library(path: Path) -> Any:
    """Import SimpleITK, or say how to get it."""
    try:
        return import_module("SimpleITK")
    except ImportError:
        raise ScanError(
            f"{path} needs SimpleITK, which is not installed",
            "Install it: pip install 'unlabeled[itk]'",
        ) from None


def _open(path: Path) -> Any:
    sitk = _library(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.suffix.lower() in (".mha", ".mhd"):
        _require_voxels(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if path.suffix.lower() in _READERS:
        reader.SetImageIO(_READERS[path.suffix.lower()])
    return reader


def _require_voxels(path: Path) -> None:
    """Find the voxels of a MetaImage and count their bytes: the library would print its own complaint."""
    with path.open("rb") as stream:
        head = stream.read(8192)
    facts = dict(re.findall(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", head, re.MULTILINE))
    name = facts.get(b"ElementDataFile", b"").decode("utf-8", "surrogateescape")
    if not name or "DimSize" not in head.decode("latin-1"):
        raise damaged(path, "MetaImage")
    if name.startswith("LIST") or "%" in name:
        return
    local = name.upper() == "LOCAL"
    try:
        present = require_file(path if local else path.parent / name)
    except ScanError as error:
        raise ScanError(f"{path} has no voxels: {error.fact}", error.remedy) from None
    if facts.get(b"CompressedData", b"").lower() == b"true":
        return
    width = _WIDTHS.get(facts.get(b"ElementType", b"").decode().upper(), 1)
    channels = int(facts.get(b"ElementNumberOfChannels", b"1"))
    needed = width * channels * math.prod(int(edge) for edge in facts[b"DimSize"].split())
    if present < needed + (head.find(b"ElementDataFile") if local else 0):
        raise ScanError(
            f"{path} is cut off: its voxels need {needed} bytes, {name} has {present}",
            "Copy or download the file again.",
        )


def _describe(reader: Any, path: Path) -> Stored:
    size = tuple(int(edge) for edge in reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) not in (2, 3):
        raise ScanError(
            f"{path} has {len(size)} axes, neither picture nor volume",
            "Save one volume a file.",
        )
    pixel = _library(path).GetPixelIDValueAsString(reader.GetPixelID())
    components = int(reader.GetNumberOfComponents())
    if components > 4 or "complex" in pixel or "label" in pixel:
        raise ScanError(
            f"{path} holds {components} values a voxel ({pixel}), no intensities",
            "Save one intensity a voxel, or red, green and blue.",
        )
    kind = plain_dtype(_numpy_type(pixel), path)
    colour = components in (3, 4) and kind == np.uint8
    dims = reader.GetDimension()
    spacing = np.asarray(reader.GetSpacing())[: len(size)]
    direction = np.asarray(reader.GetDirection()).reshape(dims, dims)[: len(size), : len(size)]
    origin = np.asarray(reader.GetOrigin())[: len(size)]
    known = not (
        (spacing == 1).all() and (origin == 0).all() and (direction == np.eye(len(size))).all()
    )
    notes = () if known else ("no voxel spacing: the affine is the identity",)
    common = Stored(
        shape=size[::-1],
        dtype=kind,
        channels=3 if colour else components,
        colour=colour,
        notes=notes,
    )
    if len(size) == 2:
        return replace(common, spacing=tuple(spacing[::-1].tolist()) if known else None)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = origin
    affine = _FLIP @ affine
    geometry.check_affine(affine, path)
    return replace(common, shape=size, affine=affine, oriented=known)


def _numpy_type(pixel: str) -> np.dtype[Any]:
    """Turn ITK's name of a type ("vector of 16-bit signed integer") into NumPy's."""
    if "float" in pixel:
        return np.dtype(np.float64 if "64" in pixel else np.float32)
    bits = next(int(word.split("-")[0]) for word in pixel.split() if word.endswith("-bit"))
    return np.dtype(f"{'u' if 'unsigned' in pixel else ''}int{bits}")
