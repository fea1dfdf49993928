"""Colour as CIE L*a*b* (D65, 2 degrees): lightness apart from colour, and frames of a video kept so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_fill_holes, label  # type: ignore[attr-defined]
from torch import Tensor

from unlabeled.data.scan import Scan
from unlabeled.errors import ScanError
from unlabeled.transforms.pictures import as_levels

LAB = "lab"  # of a prepared frame among `Record.extras`: hundredths of L*, a*, b*
INSIDE = "inside"  # likewise: 1 where the frame shows something, 0 on its dark border
HUNDREDTHS = 100.0
LIGHTEST = 100.0  # of L*
MOST_COLOUR = 110.0  # of a* and b*: what tanh of a generator's output calls 1

# IEC 61966-2-1: linear sRGB to CIE XYZ, and its white point D65
_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE = 6 / 29
_DARK = 16  # level of 255 below which a pixel at the border shows nothing (ours)


def rgb_to_lab(
    image: Float[Tensor, "*batch 3 rows columns"],
) -> Float[Tensor, "*batch 3 rows columns"]:
    """Give lightness L* (0 to 100) and colour a* (green to red), b* (blue to yellow) of sRGB in [0, 1].

    Source: CIE 15, with the matrix and white point of sRGB (IEC 61966-2-1).

    >>> rgb_to_lab(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).flatten().round(decimals=2).tolist()
    [53.2400016784668, 80.08999633789062, 67.19999694824219]
    """
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    white = linear.new_tensor(_WHITE)
    matrix = linear.new_tensor(_TO_XYZ) / white[:, None]
    x, y, z = torch.einsum("oc,...crk->...ork", matrix, linear).unbind(-3)
    x, y, z = (
        torch.where(each > _KNEE**3, each.clamp(min=0) ** (1 / 3), each / (3 * _KNEE**2) + 4 / 29)
        for each in (x, y, z)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_to_rgb(
    image: Float[Tensor, "*batch 3 rows columns"],
) -> Float[Tensor, "*batch 3 rows columns"]:
    """Turn L*, a*, b* back into sRGB; colours that a screen cannot show are clipped to [0, 1]."""
    lightness, a, b = image.unbind(-3)
    y = (lightness + 16) / 116
    parts = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    parts = torch.where(parts > _KNEE, parts**3, 3 * _KNEE**2 * (parts - 4 / 29))
    white = parts.new_tensor(_WHITE)
    back = torch.linalg.inv(parts.new_tensor(_TO_XYZ, dtype=torch.float64)).to(parts) * white
    linear = torch.einsum("oc,...crk->...ork", back, parts).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def require_chroma(colour: Float[Tensor, "2 rows columns"], least: float) -> None:
    """Refuse a picture whose a* and b* hold no colour to learn from.

    Raises
    ------
    ScanError
        The mean chroma, the mean of ``sqrt(a^2 + b^2)``, is below `least`.
    """
    chroma = float(colour.norm(dim=0).mean())
    if chroma < least:
        fact = f"is grey: its mean chroma is {chroma:.1f}, below {least:g}"
        raise ScanError(fact, "Only frames in colour can be coloured again; leave it out.")


@dataclass(frozen=True)
class KeepLab:
    """Keep a colour frame as L*a*b* in the store, with its shorter side resized, and which pixels show something.

    A preparation: adds ``lab`` (hundredths, ``3 rows columns``) and ``inside`` (``rows columns``) to the extras.  Frames
    of one channel pass as they are: there is no colour to keep.

    Parameters
    ----------
    edge
        Shorter side of the result [pixel].
    """

    edge: int

    def __call__(self, scan: Scan) -> Scan:
        """Add lightness and colour of a frame.

        Raises
        ------
        ScanError
            It is a volume, or its intensities are not those of a picture.
        """
        if scan.dims == 2 and scan.array.shape[0] == 1:
            return scan
        levels = _shorter_side(as_levels(scan), self.edge)
        lab = rgb_to_lab(torch.from_numpy(levels / 255.0)).numpy()
        kept = np.rint(lab * HUNDREDTHS).astype(np.int16)
        inside = inside_of(levels).astype(np.uint8)
        return replace(scan, extras={**scan.extras, LAB: kept, INSIDE: inside})


def inside_of(levels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell what an endoscope sees from the dark border around it, ``3 rows columns`` to ``rows columns``.

    Dark pixels that touch the edge of the frame, through others, are border; dark ones within are not.
    """
    lit = levels.max(0) >= _DARK
    parts, count = label(lit)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        lit = parts == sizes.argmax()
    filled: NDArray[np.bool_] = binary_fill_holes(lit)
    return filled


def _shorter_side(levels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    rows, columns = levels.shape[1:]
    scale = edge / min(rows, columns)
    size = (max(edge, round(columns * scale)), max(edge, round(rows * scale)))
    if size == (columns, rows):
        return levels
    picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    resized: NDArray[Any] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))
