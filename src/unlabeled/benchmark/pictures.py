"""PNG pictures for reports: overlays of predictions on scans, and panels of images side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# label -> red, green, blue; told apart in greyscale print and by colour-blind readers (Okabe and Ito, 2008)
LABEL_COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
_CAPTION = 20  # height of a caption [pixel]
_LEAST = 68  # half the least edge of a cut-out [pixel]


def upright(volume_slice: NDArray[Any]) -> NDArray[Any]:
    """Turn an axial slice of an RAS volume ``(x, y)`` as radiologists view it: front up, patient's right on the left.

    >>> upright(np.array([[1, 2], [3, 4]]))     # (left, right) x (back, front)
    array([[4, 2],
           [3, 1]])
    """
    return volume_slice.T[::-1, ::-1]


def middle_of(image: NDArray[Any], mask: NDArray[Any] | None) -> int:
    """Choose the axial slice that shows most of what is labelled, or the middle one; 0 for a picture."""
    if image.ndim < 3:
        return 0
    if mask is None or not np.any(mask):
        return int(image.shape[2]) // 2
    return int(np.argmax((mask > 0).sum(axis=(0, 1))))


def shown(array: NDArray[Any], at: int) -> NDArray[Any]:
    """Give the picture that is shown of a scan or mask ``*space``: an upright slice of a volume, else itself."""
    return upright(array[..., at]) if array.ndim == 3 else array


def cut_out(masks: Sequence[NDArray[Any]]) -> tuple[slice, ...]:
    """Frame what is labelled in any mask ``(row, column)``, where that is small, with as much again around it.

    >>> mask = np.zeros((400, 400)); mask[200:240, 100:140] = 1
    >>> cut_out([mask])
    (slice(152, 288, None), slice(52, 188, None))
    """
    marked = np.any([mask > 0 for mask in masks], axis=0)
    if not marked.any():
        return tuple(slice(0, edge) for edge in marked.shape)
    held = [np.flatnonzero(marked.any(axis=1 - axis)) for axis in (0, 1)]
    size = max(max(int(each[-1] - each[0]) + 1 for each in held), _LEAST)
    window = []
    for each, edge in zip(held, marked.shape, strict=True):
        middle = int(each[0] + each[-1] + 1) // 2
        start = min(max(0, middle - size), max(0, edge - 2 * size))
        window.append(slice(start, min(edge, start + 2 * size)))
    return tuple(window)


def shrink(png: bytes, *, edge: int = 1000, most: int = 60_000) -> bytes:
    """Make a picture fit into a page: no wider than `edge` [pixel], as JPEG where PNG takes more than `most` bytes."""
    image: Image.Image = Image.open(io.BytesIO(png))
    if image.width > edge:
        size = (edge, max(1, round(image.height * edge / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        png = _png(image)
    if len(png) <= most:
        return png
    file = io.BytesIO()
    image.convert("RGB").save(file, format="JPEG", quality=80, optimize=True)
    return min(file.getvalue(), png, key=len)


def overlay(
    image: NDArray[Any],
    mask: NDArray[Any],
    truth: NDArray[Any] | None = None,
    *,
    edge: int = 256,
    opacity: float = 0.45,
) -> bytes:
    """Draw labels over an image: the mask as a tint, the truth as white outlines.

    Parameters
    ----------
    image
        Brightness ``(row, column)``; shown from its 1st to its 99.5th percentile.
    mask, truth
        Labels ``(row, column)``; 0 is not drawn.
    edge
        Longer edge of the picture, at least [pixel]; enlarged by a whole number.
    opacity
        Strength of the tint, 0 to 1.

    Returns
    -------
    bytes
        A PNG file in colour.
    """
    factor = max(1, -(-edge // max(image.shape)))
    canvas = np.repeat(_enlarge(_grey(image), factor)[..., None], 3, axis=2).astype(np.float64)
    labels = _enlarge(np.asarray(mask), factor)
    for label in (int(value) for value in np.unique(labels) if value > 0):
        chosen = labels == label
        colour = np.array(LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)], dtype=np.float64)
        canvas[chosen] = (1 - opacity) * canvas[chosen] + opacity * colour
    if truth is not None:
        canvas[_outline(_enlarge(np.asarray(truth), factor))] = 255.0
    return _png(Image.fromarray(np.round(canvas).astype(np.uint8)))


def panel(images: Mapping[str, NDArray[Any]], *, edge: int = 224) -> bytes:
    """Put grey images ``(row, column)`` with their captions side by side.

    Parameters
    ----------
    images
        Captions and images, left to right; all share one brightness scale.
    edge
        Longer edge of each image, at least [pixel].

    Returns
    -------
    bytes
        A PNG file.
    """
    arrays = list(images.values())
    values = np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)
    window = _window(values)
    tiles = [
        _enlarge(_grey(array, window), max(1, -(-edge // max(array.shape)))) for array in arrays
    ]
    gap = 8
    width = sum(tile.shape[1] for tile in tiles) + gap * (len(tiles) - 1)
    sheet = Image.new("L", (width, max(tile.shape[0] for tile in tiles) + _CAPTION), 255)
    pen, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(13), 0
    for caption, tile in zip(images, tiles, strict=True):
        sheet.paste(Image.fromarray(tile), (left, _CAPTION))
        pen.text((left + 2, 2), caption, fill=30, font=font)
        left += tile.shape[1] + gap
    return _png(sheet)


def _window(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1.0, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(high)


def _grey(image: NDArray[Any], window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    values = np.asarray(image, dtype=np.float64)
    low, high = window or _window(values)
    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.round(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def _enlarge(image: NDArray[Any], factor: int) -> NDArray[Any]:
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def _outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the pixels of each label's inner border."""
    framed = np.pad(labels, 1)
    middle = framed[1:-1, 1:-1]
    around = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    border = np.any([middle != other for other in around], axis=0)
    return np.asarray(border & (middle > 0))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
