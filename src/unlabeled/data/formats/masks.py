"""Masks: read onto the grid of their scan, and written back onto the grid of the scan's file."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats import geometry
from unlabeled.data.formats.contents import Stored
from unlabeled.data.formats.reading import load_channel, orient, require_same_grid, size
from unlabeled.data.scan import Grid, Scan, ScanFile
from unlabeled.errors import ScanError


def read_mask(file: ScanFile, like: Scan, *, frame: int | None = None) -> NDArray[Any]:
    """Read a mask onto the RAS grid of its scan.

    Where only one of the two files knows its geometry, equal shapes count as the same grid: the mask is turned as the
    scan was.

    Parameters
    ----------
    file
        The mask; a palette picture gives its indices, not its colours.
    like
        The scan that it belongs to.
    frame
        As in `read_header`.

    Returns
    -------
    Integers, ``*space``.

    Raises
    ------
    ScanError
        The grids differ, or the values are no labels.
    """
    if file.format == "picture" and file.path.suffix.lower() in (".jpg", ".jpeg"):
        raise ScanError(
            f"{file.path} is a mask stored as JPEG, whose compression blurs labels",
            "Export the mask as PNG.",
        )
    stored, array = load_channel(file, frame, labels=True)
    part = orient(_turned_like(stored, like, file.path), array)
    require_same_grid(file.path, part.header, like)
    return _labels(part.array, part.slope, part.intercept, file.path)


def write_mask(
    path: Path, array: NDArray[Any], grid: Grid, affine: NDArray[np.float64] | None
) -> None:
    """Write a mask or a map on the original grid of its scan, whole or not at all.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``; ``.png`` for pictures, which have two axes and no affine.
    array
        ``*space`` as in `Scan`: labels, or probabilities as floats (NIfTI only).
    grid
        `Scan.grid`.
    affine
        `Scan.affine`; None when the array was not reoriented.

    Raises
    ------
    ScanError
        The array does not fit the grid, or the suffix does not fit the kind of scan.
    """
    picture = len(grid.shape) == 2 and grid.affine is None
    _check_suffix(path, (".png",) if picture else (".nii", ".nii.gz"))
    stored = _in_file_order(array, grid, affine, path)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if picture:
            _write_picture(partial, stored, path)
        else:
            _write_nifti(partial, stored, grid)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _turned_like(stored: Stored, like: Scan, path: Path) -> Stored:
    """Give a mask the orientation of its scan where only one of them has any."""
    known = stored.affine is not None and stored.oriented
    if known == (like.affine is not None):
        return stored
    if stored.grid.shape != like.grid.shape:
        raise ScanError(
            f"{path} has {size(stored.grid.shape)} voxels, but its scan has {size(like.grid.shape)}",
            "Export the mask again on the grid of its scan.",
        )
    if known:
        return replace(stored, oriented=False)
    shape = (*like.grid.shape, 1)[:3]
    return replace(stored, shape=shape, affine=like.grid.affine, oriented=True)


def _labels(array: NDArray[Any], slope: float, intercept: float, path: Path) -> NDArray[Any]:
    """Give one channel of whole numbers, or say why there is none."""
    mask: NDArray[Any] = array[0]
    if len(array) > 1 and not all(np.array_equal(mask, other) for other in array[1:]):
        raise ScanError(
            f"{path} is a mask with {len(array)} different channels",
            "Export labels as one channel of whole numbers.",
        )
    if slope != 1.0 or intercept != 0.0:
        mask = mask * np.float64(slope) + np.float64(intercept)
    if mask.dtype.kind in "iu":
        return mask
    whole: NDArray[Any] = np.rint(mask)
    if not np.array_equal(whole, mask):
        raise ScanError(
            f"{path} is a mask with values that are no whole numbers",
            "Export labels, not probabilities, or round them first.",
        )
    return whole.astype(np.int32)


def _check_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    if not path.name.lower().endswith(allowed):
        raise ScanError(
            f"{path} cannot hold this mask by its suffix", f"Name it {' or '.join(allowed)}."
        )


def _in_file_order(
    array: NDArray[Any], grid: Grid, affine: NDArray[np.float64] | None, path: Path
) -> NDArray[Any]:
    """Undo the reorientation and put back the axis of a single slice."""
    turned = affine is not None and grid.affine is not None
    full = (*grid.shape, 1)[:3] if grid.affine is not None else grid.shape
    shape = (
        geometry.affine_in_ras(grid.affine, full)[1] if turned and grid.affine is not None else full
    )
    flat = geometry.flat_axis(shape)
    expected = shape if flat is None else shape[:flat] + shape[flat + 1 :]
    if array.shape != expected:
        raise ScanError(
            f"the mask for {path} has {size(array.shape)} voxels, but its scan has {size(expected)}",
            "Predict on the scan again: the mask was made for another one.",
        )
    restored = array.reshape(shape)
    if turned and grid.affine is not None:
        restored = geometry.from_ras(restored, grid.affine)
    return np.ascontiguousarray(restored).reshape(grid.shape)


def _write_nifti(path: Path, array: NDArray[Any], grid: Grid) -> None:
    nibabel: Any = import_module("nibabel")
    affine = np.eye(4) if grid.affine is None else grid.affine
    if array.dtype.kind in "biu":
        array = array.astype(_smallest(array), copy=False)
    elif array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine if _rigid(affine) else None, code=1 if _rigid(affine) else 0)
    image.set_sform(affine, code=1)
    nibabel.save(image, path)


def _write_picture(partial: Path, array: NDArray[Any], path: Path) -> None:
    from PIL import Image

    kind = _smallest(array) if array.dtype.kind in "biu" else None
    if kind not in (np.uint8, np.uint16):
        raise ScanError(
            f"{path} cannot hold this mask: PNG stores whole numbers from 0 to 65535",
            "Write labels, one channel of whole numbers.",
        )
    Image.fromarray(array.astype(kind)).save(partial, format="PNG")


def _smallest(array: NDArray[Any]) -> type[np.integer[Any]]:
    """Find the smallest integer type that holds all values, and that viewers read."""
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.uint16, np.int16, np.int32)
    for kind in kinds:
        if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return kind
    return np.int64


def _rigid(affine: NDArray[np.float64]) -> bool:
    """Whether an affine has perpendicular axes, as the quaternion form of NIfTI needs."""
    axes = affine[:3, :3] / np.asarray(geometry.spacing_of(affine))
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-5))
