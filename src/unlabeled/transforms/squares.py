"""Whole pictures as squares of one size, and what a network sees of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.sampling import draw_start
from unlabeled.data.scan import Scan
from unlabeled.data.store import Record
from unlabeled.errors import ScanError

NAME = "square"  # of the prepared picture among `Record.extras`


@dataclass(frozen=True)
class KeepSquare:
    """Keep a small square copy of each picture in the store, so that no training step shrinks a large one.

    Parameters
    ----------
    edge
        Of the square [pixel].
    """

    edge: int

    def __call__(self, scan: Scan) -> Scan:
        """Add the copy to the scan's extras, in its intensity unit; whole numbers stay whole.

        Raises
        ------
        ScanError
            It is a volume.
        """
        if scan.dims != 2:
            raise ScanError(
                "is a volume, and pictures are wanted", "Give radiographs or other pictures."
            )
        small = fit_square(scan.intensities(), self.edge)
        if scan.array.dtype.kind in "iu":
            small = np.rint(small)
        return replace(scan, extras={**scan.extras, NAME: small})


@dataclass(frozen=True, kw_only=True)
class Framing:
    """What of a picture a network sees.

    Parameters
    ----------
    edge
        Of the square that the whole picture becomes [pixel].
    crop
        Rows and columns that are cut out of it [pixel].
    """

    edge: int
    crop: tuple[int, int]

    def draw(self, record: Record, rng: Generator) -> Tensor:
        """Cut from a random place: ``channel *crop``."""
        return self._cut(record, draw_start((self.edge, self.edge), self.crop, rng))

    def centre(self, record: Record) -> Tensor:
        """Cut from the middle: ``channel *crop``."""
        return self._cut(record, tuple((self.edge - side) // 2 for side in self.crop))

    def _cut(self, record: Record, start: tuple[int, ...]) -> Tensor:
        (top, left), (rows, columns) = start, self.crop
        square = read_square(record, self.edge)[:, top : top + rows, left : left + columns]
        return torch.from_numpy(np.ascontiguousarray(square))


def read_square(record: Record, edge: int) -> NDArray[np.float32]:
    """Give a picture as a square in network input, ``channel edge edge``: the copy of the store where there is one."""
    kept = record.extras.get(NAME)
    if kept is None or kept.shape[1:] != (edge, edge):
        whole = record.patch((0,) * record.dims, record.space).numpy()
        return fit_square(whole, edge)
    square = kept.whole().astype(np.float32)
    for channel, rescaling in zip(square, record.rescalings, strict=True):
        np.clip(channel, rescaling.low, rescaling.high, out=channel)
        channel -= rescaling.centre
        channel /= rescaling.width
    return square


def fit_square(picture: NDArray[Any], edge: int) -> NDArray[np.float32]:
    """Scale a picture until its longer side is `edge`, and pad the shorter one on both sides.

    Parameters
    ----------
    picture
        ``channel rows columns``.
    edge
        Of the square [pixel].

    Returns
    -------
    NDArray
        ``channel edge edge``; beyond the picture, its lowest number.

    Notes
    -----
    The shorter side becomes the whole part of its scaled length, and of an odd rest the end gets one more, as in the
    official code of GLoRIA (Huang et al., ICCV 2021), which pads with zero.

    >>> fit_square(np.arange(8.0).reshape(1, 4, 2), 2)      # means of 2 x 2, then one column of padding
    array([[[1.5, 0. ], [5.5, 0. ]]], dtype=float32)
    """
    sides = picture.shape[1:]
    scaled = [max(1, side * edge // max(sides)) for side in sides]
    rows, columns = (_weights(side, length) for side, length in zip(sides, scaled, strict=True))
    small = rows @ picture.astype(np.float32, copy=False) @ columns.T
    out = np.full((len(picture), edge, edge), picture.min(), np.float32)
    top, left = ((edge - length) // 2 for length in scaled)
    out[:, top : top + scaled[0], left : left + scaled[1]] = small
    return out


def _weights(length: int, wanted: int) -> NDArray[np.float32]:
    """Share each new pixel out among the old ones ``new old``: by overlap when shrinking, else linearly."""
    ratio = length / wanted
    new, old = np.arange(wanted)[:, None], np.arange(length)[None]
    if wanted <= length:
        overlap = np.minimum((new + 1) * ratio, old + 1) - np.maximum(new * ratio, old)
        weights = np.clip(overlap, 0, None)
    else:
        centre = np.clip((new + 0.5) * ratio - 0.5, 0, length - 1)
        weights = np.clip(1 - np.abs(centre - old), 0, None)
    normed: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return normed
