"""NIfTI-1 and NIfTI-2, one file or a pair, compressed or not, of either byte order."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from unlabeled.data.formats import geometry
from unlabeled.data.formats.contents import Stored, damaged, guarded, plain_dtype, require_file
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

_MILLIMETRES = {"meter": 1e3, "micron": 1e-3}
_COLOURS = {("R", "G", "B"), ("R", "G", "B", "A")}


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the header; see `Reader`."""
    with guarded(file.path, "NIfTI"):
        return _describe(_open(file.path), file.path, frame)


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read header and voxels; see `Reader`."""
    path = file.path
    with guarded(path, "NIfTI"):
        image = _open(path)
        stored = _describe(image, path, frame)
        proxy = image.dataobj
        raw = _voxels(image, path)
        if len(_axes(image)) > 3:
            raw = raw[..., frame or 0]
        raw = raw.reshape(stored.shape)
        if raw.dtype.names:
            return stored, np.stack([raw[name] for name in raw.dtype.names[:3]])
        if raw.dtype.kind == "f" and (proxy.slope, proxy.inter) != (1.0, 0.0):
            raw = raw * np.float32(proxy.slope) + np.float32(proxy.inter)
        return stored, raw[None]


def _voxels(image: Any, path: Path) -> NDArray[Any]:
    """Read the values as they are stored, in the order of the file.

    Compressed files are decompressed as a whole: only then are length and checksum compared, and damage among the
    voxels found.
    """
    proxy = image.dataobj
    name = Path(image.file_map["image"].filename)
    if name.suffix.lower() != ".gz":
        return np.asanyarray(proxy.get_unscaled())
    whole = gzip.decompress(name.read_bytes())
    count = int(np.prod(proxy.shape, dtype=object))
    needed = int(proxy.offset) + count * proxy.dtype.itemsize
    if len(whole) < needed:
        raise _cut_off(path, len(whole), needed)
    flat = np.frombuffer(whole, proxy.dtype, count, int(proxy.offset))
    return flat.reshape(proxy.shape, order="F")


def _cut_off(path: Path, present: int, needed: int) -> ScanError:
    return ScanError(
        f"{path} is cut off: {present} of {needed} bytes are there",
        "Copy or download the file again.",
    )


def _open(path: Path) -> Any:
    """Open an image without its voxels; refuse what only looks like NIfTI."""
    _require_partner(path)
    try:
        image = nibabel.load(path) if path.suffix else _open_nameless(path)
    except nibabel.filebasedimages.ImageFileError as error:
        raise damaged(path, "NIfTI") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise ScanError(
            f"{path} is of the older Analyze format, which does not say left from right",
            "Convert it to NIfTI with the program that made it.",
        )
    return image


def _open_nameless(path: Path) -> Any:
    """Open a file without suffix, which nibabel would refuse by its name."""
    kind: Any = nibabel.Nifti1Image
    with path.open("rb") as stream:
        size = stream.read(4)
    if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")):
        kind = nibabel.Nifti2Image
    return kind.from_file_map({"image": FileHolder(filename=str(path))})


def _require_partner(path: Path) -> None:
    """Check that header and voxels lie side by side, where they are two files."""
    partner = {".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower())
    if partner is None:
        return
    if not any(path.with_suffix(s).is_file() for s in (partner, partner.upper(), partner + ".gz")):
        raise ScanError(
            f"{path} is one half of a pair, and the other half ({partner}) is not beside it",
            "Put header (.hdr) and voxels (.img) into one folder, with equal names.",
        )


def _axes(image: Any) -> tuple[int, ...]:
    """Give the axes of an image without trailing ones beyond the third."""
    shape = tuple(int(edge) for edge in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _describe(image: Any, path: Path, frame: int | None) -> Stored:
    """Fill in what the header says, and refuse what no scan can be."""
    shape = _axes(image)
    if not shape or min(shape) < 1:
        raise ScanError(f"{path} holds no voxels (shape {shape})", "Export the scan again.")
    if len(shape) == 1 or len(shape) > 4:
        raise ScanError(
            f"{path} has {len(shape)} axes, no volume", "Export it as volumes of three axes."
        )
    frames = shape[3] if len(shape) == 4 else 1
    if frames > 1 and frame is None:
        raise ScanError(
            f"{path} holds {frames} volumes over time or contrast, not one",
            "Choose one in a manifest's column `frame` (0 is the first), "
            f"or cut it out: nib-roi -t 0:1 '{path}' volume.nii.gz",
        )
    if frames > 1 and frame is not None and not 0 <= frame < frames:
        raise ScanError(
            f"{path} has no frame {frame}", f"Give a frame from 0 to {frames - 1} in the manifest."
        )
    dtype = image.header.get_data_dtype()
    colour = dtype.names in _COLOURS
    kind = np.dtype(np.uint8) if colour else plain_dtype(dtype, path)
    affine = np.asarray(image.affine, dtype=np.float64)
    unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    if unit != 1.0:
        affine = np.diag([unit, unit, unit, 1.0]) @ affine
    notes = _check_geometry(image, affine, path)
    _check_size(image, path)
    integers = kind.kind in "iu" and not colour
    slope, intercept = _scale(image) if integers else (1.0, 0.0)
    known = not notes or notes[0] != _UNKNOWN
    return Stored(
        shape=(*shape[:3], 1)[:3],
        grid_shape=shape[:3],
        dtype=kind,
        channels=3 if colour else 1,
        affine=affine,
        oriented=known,
        colour=colour,
        frames=frames,
        slope=slope,
        intercept=intercept,
        notes=notes,
    )


_UNKNOWN = "no voxel spacing: the affine is the identity"
_ASSUMED = "no orientation in the header (neither sform nor qform): the usual one was assumed"
_SHEARED = "the axes are not perpendicular (gantry tilt or shear)"


def _check_geometry(image: Any, affine: NDArray[np.float64], path: Path) -> tuple[str, ...]:
    """Refuse a geometry that cannot be, and note one that says little."""
    header = image.header
    stated = bool(header["sform_code"]) or bool(header["qform_code"])
    if not header["sform_code"]:
        _check_edges(image, path)
    geometry.check_affine(affine, path)
    edges = header.get_zooms()[:3]
    if geometry.is_identity(affine) or (not stated and all(edge == 1 for edge in edges)):
        return (_UNKNOWN,)
    notes = [] if stated else [_ASSUMED]
    axes = affine[:3, :3] / np.asarray(geometry.spacing_of(affine))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        notes.append(_SHEARED)
    return tuple(notes)


def _check_edges(image: Any, path: Path) -> None:
    """Look at the voxel edges as they stand in the file: when it opens one, nibabel turns zeros into ones."""
    with ImageOpener(image.file_map.get("header", image.file_map["image"]).filename) as stream:
        header = type(image.header).from_fileobj(stream, check=False)
    edges = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))[: len(_axes(image)[:3])]
    if not np.isfinite(edges).all() or (edges == 0).any():
        listed = " x ".join(f"{edge:g}" for edge in edges)
        raise ScanError(
            f"{path} has zero voxel spacing ({listed} mm)",
            "Export the scan again, or copy the header of a scan with the same grid into it.",
        )


def _check_size(image: Any, path: Path) -> None:
    """Notice an uncompressed file that breaks off, without reading it."""
    name = Path(image.file_map["image"].filename)
    if name.suffix in (".gz", ".bz2", ".zst"):
        return
    header = image.header
    voxels = int(np.prod(image.shape, dtype=object))
    needed = int(image.dataobj.offset) + voxels * header.get_data_dtype().itemsize
    present = require_file(name)
    if present < needed:
        raise _cut_off(path, present, needed)


def _scale(image: Any) -> tuple[float, float]:
    """Give slope and intercept; (1, 0) where the header has none."""
    return float(image.dataobj.slope), float(image.dataobj.inter)
