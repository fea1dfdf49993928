"""TIFF: one page is a picture; several pages of one size are a volume (rows, columns, pages) without geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from unlabeled.data.formats.contents import Stored, guarded, hushed, plain_dtype
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

_INVERTED = 0  # photometric interpretations of the TIFF 6.0 specification
_PALETTE = 3


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the header; see `Reader`."""
    with guarded(file.path, "TIFF"), tifffile.TiffFile(file.path) as tiff:
        return _describe(tiff, file.path, frame, labels=False)[0]


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read header and pixels; see `Reader`."""
    with guarded(file.path, "TIFF"), tifffile.TiffFile(file.path) as tiff:
        stored, axes = _describe(tiff, file.path, frame, labels=labels)
        series = tiff.series[0]
        try:
            array = np.asarray(series.asarray())
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            array = _by_pillow(file.path, series)
        page = series.keyframe
        if page.photometric == _INVERTED and array.dtype.kind in "iub":
            array = _invert(array, int(page.bitspersample))
        return stored, _arrange(array, axes, page, stored, frame, labels=labels)


def _describe(
    tiff: tifffile.TiffFile, path: Path, frame: int | None, *, labels: bool
) -> tuple[Stored, str]:
    """Fill in what the tags say; also give one letter an axis: Y, X, S (colour), C (channel) or P (page)."""
    series = tiff.series[0]
    page = series.keyframe
    axes = "".join(
        letter if letter in "YXSC" else "P" if edge > 1 else "-"
        for letter, edge in zip(series.axes, series.shape, strict=True)
    )
    sizes = dict(zip(axes, series.shape, strict=True))
    if axes.count("P") > 1 or "Y" not in sizes or "X" not in sizes:
        raise ScanError(
            f"{path} has the axes {series.axes}, more than one besides rows and columns",
            "Save one stack or one time point a file.",
        )
    samples = int(sizes.get("S", 1))
    palette = page.photometric == _PALETTE and not labels and samples == 1
    colour = samples >= 3 or palette
    channels = 3 if colour else int(sizes.get("C", 1))
    if channels > 4 and "P" not in sizes:
        axes, channels = axes.replace("C", "P"), 1
        sizes["P"] = sizes["C"]
    pages = int(sizes.get("P", 1))
    if pages > 1 and frame is not None and not 0 <= frame < pages:
        raise ScanError(
            f"{path} has no page {frame}", f"Give a frame from 0 to {pages - 1} in the manifest."
        )
    plane = (int(sizes["Y"]), int(sizes["X"]))
    notes = []
    if len(tiff.series) > 1:
        notes.append("holds pictures of several sizes: the first was taken")
    if samples in (2, 4):
        notes.append("transparency was dropped")
    stored = Stored(
        shape=plane if pages == 1 or frame is not None else (*plane, pages),
        dtype=np.dtype(np.uint8) if palette else plain_dtype(np.dtype(series.dtype), path),
        channels=channels,
        colour=colour,
        frames=pages,
        notes=tuple(notes),
    )
    return stored, axes


def _arrange(
    array: NDArray[Any], axes: str, page: Any, stored: Stored, frame: int | None, *, labels: bool
) -> NDArray[Any]:
    """Bring the axes into the order channel, row, column, page."""
    keep = [i for i, letter in enumerate(axes) if letter != "-"]
    array = array.reshape([array.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)
    if "P" in axes and frame is not None:
        array = np.take(array, frame, axis=axes.index("P"))
        axes = axes.replace("P", "")
    if "S" in axes and "C" in axes:
        array = np.take(array, 0, axis=axes.index("C"))
        axes = axes.replace("C", "")
    lead = "S" if "S" in axes else "C" if "C" in axes else ""
    order = [axes.index(letter) for letter in lead + "YX" + ("P" if "P" in axes else "")]
    array = array.transpose(order)
    if not lead:
        array = array[None]
    if stored.colour and page.photometric == _PALETTE and len(array) == 1:
        table = (np.asarray(page.colormap) >> 8).astype(np.uint8)
        array = table[:, array[0]]
    return array[: stored.channels]


def _invert(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Make white large, where the file stores white as 0."""
    if array.dtype.kind == "b":
        return ~array
    top = array.dtype.type(2**bits - 1) if array.dtype.kind == "u" else array.dtype.type(-1)
    inverted: NDArray[Any] = top - array
    return inverted


def _by_pillow(path: Path, series: Any) -> NDArray[Any]:
    """Decode pages by the library inside Pillow: it knows compressions (LZW, JPEG) that tifffile does not alone."""
    from PIL import Image, ImageSequence

    with hushed(), Image.open(path, formats=("TIFF",)) as image:
        pages = [np.asarray(page) for page in ImageSequence.Iterator(image)]
        turned = image.mode in ("1", "L")
    array = np.stack(pages[: len(series.pages)]).reshape(series.shape)
    if series.keyframe.photometric == _INVERTED and turned:
        return _invert(array, int(series.keyframe.bitspersample))
    return array
