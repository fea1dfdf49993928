"""From a `Source` to a `Scan`: the readers' arrays, reoriented, checked and stacked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats import geometry
from unlabeled.data.formats.contents import Header, Reader, Series, Stored, damaged, require_file
from unlabeled.data.scan import Quarantined, Scan, ScanFile, Source
from unlabeled.errors import ScanError

FORMATS = ("nifti", "dicom", "picture", "tiff", "npy", "itk")


@dataclass(frozen=True, slots=True)
class Oriented:
    """One file's voxels in RAS order (or as they are, where orientation is unknown)."""

    array: NDArray[Any]
    header: Header
    slope: float
    intercept: float


def read_header(file: ScanFile, *, frame: int | None = None) -> Header:
    """Read what a file says about its scan, without its voxels.

    Parameters
    ----------
    file
        File or files of one channel.
    frame
        Take this frame or time point, counted from 0, of a file that holds several; ignored by one that holds one
        picture or volume.

    Raises
    ------
    ScanError
        The file cannot be used; voxels are not looked at, so damage among them shows in `read_scan` alone.
    """
    return header_of(reader_of(file).inspect(file, frame))


def read_scan(source: Source) -> Scan:
    """Read the voxels of a scan, all channels stacked on the first axis, in RAS order.

    Integers stay integers, with slope and intercept beside them.  Channels whose scale differs become float32
    intensities; channels of several integer types take the smallest type that holds them all.

    Raises
    ------
    ScanError
        A file cannot be read, holds NaN or one single value, or the channels' grids differ.
    """
    parts = [read_channel(file, source.frame) for file in source.channels]
    first = parts[0]
    for file, part in zip(source.channels[1:], parts[1:], strict=True):
        require_same_grid(file.path, part.header, first.header)
    array, slope, intercept = _stack(parts)
    if array.size and array.min() == array.max():
        raise ScanError(
            f"{source.channels[0].path} holds the same value in every voxel",
            "Export the scan again, or leave it out.",
        )
    return Scan(
        array=array,
        spacing=first.header.spacing,
        affine=first.header.affine,
        modality=source.modality or ";".join(_named(part.header.modality for part in parts)),
        grid=first.header.grid,
        slope=slope,
        intercept=intercept,
    )


def group_series(
    paths: Iterable[Path], *, salt: bytes = b""
) -> tuple[list[Series], list[Quarantined]]:
    """Sort DICOM files into scans, by series and position; name the files that make none.

    See `unlabeled.data.formats.series.group_series`.
    """
    from unlabeled.data.formats.series import group_series as group

    return group(paths, salt=salt)


def read_channel(file: ScanFile, frame: int | None = None) -> Oriented:
    """Read one file's voxels, ``channel *space``, contiguous and of native byte order."""
    return orient(*load_channel(file, frame))


def load_channel(
    file: ScanFile, frame: int | None = None, *, labels: bool = False
) -> tuple[Stored, NDArray[Any]]:
    """Read one file's voxels in the file's own order, checked for NaN."""
    stored, array = reader_of(file).load(file, frame, labels=labels)
    if array.shape != (stored.channels, *stored.shape) or not array.size:
        raise damaged(file.path, file.format)
    if array.dtype != stored.dtype:
        array = array.astype(stored.dtype)
    if array.dtype.kind == "f" and array.size:
        lowest, highest = float(array.min()), float(array.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            what = "NaN" if np.isnan(lowest) else "infinite"
            raise ScanError(
                f"{file.path} has {what} voxels",
                "Replace them by the value of the background (numpy.nan_to_num), or leave the file out.",
            )
    return stored, array


def orient(stored: Stored, array: NDArray[Any]) -> Oriented:
    """Turn voxels to RAS where the orientation is known, and drop the axis of a single slice."""
    header = header_of(stored)
    array = array.reshape(array.shape[0], *stored.shape)  # a mask takes its scan's axes
    if header.affine is not None and stored.affine is not None:
        array = geometry.to_ras(array, stored.affine)
    array = np.ascontiguousarray(array).reshape(array.shape[0], *header.shape)
    return Oriented(array, header, stored.slope, stored.intercept)


def require_same_grid(path: Path, part: Header, like: Header | Scan) -> None:
    """Raise a `ScanError` when a mask or a second channel does not lie on its scan's grid."""
    shape = like.shape if isinstance(like, Header) else like.array.shape[1:]
    if part.shape != shape:
        raise ScanError(
            f"{path} has {size(part.shape)} voxels, but the scan it belongs to has {size(shape)}",
            "Resample it onto the grid of that scan.",
        )
    if part.affine is None or like.affine is None:
        return
    if not geometry.same_grid(part.affine, like.affine, shape):
        raise ScanError(
            f"{path} lies elsewhere in space than the scan it belongs to (their affines differ)",
            "Resample it onto the grid of that scan.",
        )


def reader_of(file: ScanFile) -> Reader:
    """Import the reader of a file's format, and check that its files are there."""
    if file.format not in FORMATS:
        raise ScanError(
            f"{file.path} has the unknown format {file.format!r}",
            f"Give one of {', '.join(FORMATS)}.",
        )
    for path in file.paths:
        require_file(path)
    module = "unlabeled.data.formats." + file.format
    return cast(Reader, import_module(module))


def header_of(stored: Stored) -> Header:
    """Turn what a file stores into the header of the reoriented scan."""
    affine, shape, spacing = None, stored.shape, stored.spacing
    if stored.affine is not None and stored.oriented:
        affine, shape = geometry.affine_in_ras(stored.affine, stored.shape)
        spacing = geometry.spacing_of(affine)
    flat = geometry.flat_axis(shape)
    if flat is not None:
        shape = shape[:flat] + shape[flat + 1 :]
        spacing = spacing and spacing[:flat] + spacing[flat + 1 :]
        if affine is not None:
            affine = np.concatenate(
                [np.delete(affine[:, :3], flat, axis=1), affine[:, [flat, 3]]], axis=1
            )
    return Header(
        shape=shape,
        channels=stored.channels,
        dtype=stored.dtype,
        spacing=spacing,
        affine=affine,
        modality=stored.modality,
        colour=stored.colour,
        frames=stored.frames,
        notes=stored.notes,
        grid=stored.grid,
    )


def _stack(parts: list[Oriented]) -> tuple[NDArray[Any], float, float]:
    """Join channels; keep integers where one slope and intercept serve them all."""
    first = parts[0]
    if len(parts) == 1:
        return first.array, first.slope, first.intercept
    scales = {(part.slope, part.intercept) for part in parts}
    common = np.result_type(*(part.array.dtype for part in parts))
    if len(scales) == 1 and (common.kind in "iu" or common == np.float32):
        joined = np.concatenate([part.array.astype(common, copy=False) for part in parts])
        return joined, first.slope, first.intercept
    scaled = [
        part.array.astype(np.float32) * np.float32(part.slope) + np.float32(part.intercept)
        for part in parts
    ]
    return np.concatenate(scaled), 1.0, 0.0


def _named(modalities: Iterable[str]) -> tuple[str, ...]:
    """Drop unknown and repeated modalities, keeping the order."""
    return tuple(dict.fromkeys(name for name in modalities if name))


def size(shape: tuple[int, ...]) -> str:
    """Say a shape as people write it."""
    return " x ".join(str(edge) for edge in shape)
