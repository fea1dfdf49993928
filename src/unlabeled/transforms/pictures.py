"""Photographs as networks take them: square, of one size, in three colours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unlabeled.data.fmri import is_response
from unlabeled.data.scan import Scan
from unlabeled.data.stimuli import PICTURE
from unlabeled.errors import ScanError


@dataclass(frozen=True)
class SquarePicture:
    """Cut the middle square out of a picture, resize it by bicubic interpolation, and repeat grey in three channels.

    A preparation: adds the result to the extras; responses without a picture pass as they are.
    Source: Beliy et al., NeurIPS 2019, official code (112 x 112).

    Parameters
    ----------
    edges
        Rows and columns of the result [pixel].
    """

    edges: tuple[int, int] = (112, 112)

    def __call__(self, scan: Scan) -> Scan:
        """Add the picture of a scan.

        Raises
        ------
        ScanError
            It is a volume, or its intensities are not those of a picture.
        """
        if is_response(scan):
            return scan
        return replace(scan, extras={**scan.extras, PICTURE: square(as_levels(scan), self.edges)})


def as_levels(scan: Scan) -> NDArray[np.uint8]:
    """Give a picture's red, green and blue as levels 0 to 255: ``3 rows columns``.

    White is 255, or 65535 in 16 bits without a sign; numbers that are not whole are shares of white, 0 to 1.

    Raises
    ------
    ScanError
        It has three axes, as many channels as no picture has, or intensities below 0 or above white.
    """
    if scan.dims != 2 or scan.array.shape[0] not in (1, 3):
        shape = " x ".join(map(str, scan.array.shape))
        raise ScanError(
            f"is no picture: {shape} (channels first), not 1 or 3 channels of rows and columns",
            "Leave it out, or give grey or RGB pictures.",
        )
    array = scan.intensities()
    kind = scan.array.dtype
    white = 1.0 if kind.kind == "f" else 65535.0 if kind == np.uint16 else 255.0
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0 or highest > white:
        raise ScanError(
            f"has intensities from {lowest:g} to {highest:g}, and a picture's lie from 0 to {white:g}",
            "Save it as PNG or JPEG, or as numbers from 0 (black) to 1 (white).",
        )
    levels = np.rint(array * (255.0 / white)).astype(np.uint8)
    return np.repeat(levels, 3, axis=0) if len(levels) == 1 else levels


def square(levels: NDArray[np.uint8], edges: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut the middle square of ``3 rows columns`` and resize it."""
    rows, columns = levels.shape[1:]
    edge = min(rows, columns)
    top, left = (rows - edge) // 2, (columns - edge) // 2
    cut = levels[:, top : top + edge, left : left + edge]
    if (edge, edge) == edges:
        return np.ascontiguousarray(cut)
    picture = Image.fromarray(np.ascontiguousarray(cut.transpose(1, 2, 0)))
    resized: NDArray[Any] = np.asarray(picture.resize(edges[::-1], Image.Resampling.BICUBIC))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def as_square(responses: Tensor) -> Tensor:
    """Lay the voxels of ``batch voxels`` out as ``batch 1 edge edge``: -3 deviations black, +3 white.

    >>> import torch
    >>> as_square(torch.tensor([[-3.0, 3.0, 0.0]])).tolist()
    [[[[0.0, 1.0], [0.5, 0.5]]]]
    """
    voxels = responses.shape[1]
    edge = math.ceil(math.sqrt(voxels))
    padded = F.pad(responses.float(), (0, edge * edge - voxels))
    return (padded / 6 + 0.5).clamp(0, 1).view(-1, 1, edge, edge)
