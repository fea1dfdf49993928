"""Pictures: PNG and JPEG, as (rows, columns) without spacing.

The resolution that picture files may state is meant for printing and is not taken for a spacing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from unlabeled.data.formats.contents import Stored, guarded
from unlabeled.data.scan import ScanFile
from unlabeled.errors import ScanError

_GREY = {
    "1": np.uint8,
    "L": np.uint8,
    "LA": np.uint8,
    "I;16": np.uint16,
    "I;16B": np.uint16,
    "I;16L": np.uint16,
    "I;16N": np.uint16,
    "I": np.int32,
    "F": np.float32,
}


def inspect(file: ScanFile, frame: int | None) -> Stored:
    """Read the header; see `Reader`."""
    with _opened(file.path) as image:
        return _describe(image, labels=False)


def load(file: ScanFile, frame: int | None, *, labels: bool = False) -> tuple[Stored, NDArray[Any]]:
    """Read header and pixels; see `Reader`."""
    with _opened(file.path) as image:
        stored = _describe(image, labels=labels)
        return stored, pixels(image, labels=labels)


def pixels(image: Image.Image, *, labels: bool) -> NDArray[Any]:
    """Give the pixels of an open image, ``channel rows columns``; transparency is dropped."""
    if image.mode == "1":
        return np.asarray(image, dtype=np.uint8)[None]
    if image.mode == "P" and labels:
        return np.asarray(image)[None]
    if image.mode == "LA":
        image = image.convert("L")
    if image.mode in _GREY:
        return np.asarray(image)[None]
    return np.ascontiguousarray(np.moveaxis(np.asarray(image.convert("RGB")), -1, 0))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong, also later while it is read, is a `ScanError`."""
    with guarded(path, "PNG or JPEG"):
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                yield image
        except Image.DecompressionBombError:
            raise ScanError(
                f"{path} has more pixels than fit into memory safely",
                "Cut it into tiles, and list the tiles.",
            ) from None


def _describe(image: Image.Image, *, labels: bool) -> Stored:
    columns, rows = image.size
    grey = image.mode in _GREY or (labels and image.mode == "P")
    notes = []
    if "transparency" in image.info or image.mode in ("LA", "RGBA", "PA"):
        notes.append("transparency was dropped")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        notes.append("the camera's rotation mark (EXIF) was not applied")
    if getattr(image, "n_frames", 1) > 1:
        notes.append("animated: the first picture was taken")
    return Stored(
        shape=(rows, columns),
        dtype=np.dtype(_GREY.get(image.mode, np.uint8)),
        channels=1 if grey else 3,
        colour=not grey,
        notes=tuple(notes),
    )
