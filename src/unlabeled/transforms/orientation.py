"""Turn patches of the cortex so that its depth points the same way in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data.record import Record

CELLS = 25  # edge of the map of depth that the angle is taken of (official code)
SHARE = CELLS * 32 / 1019  # of a patch that it covers: 64 um a cell, 2 um a pixel (official code)


def depth_angle(depth: NDArray[np.generic]) -> float:
    """Give the angle by which a patch is turned: minus that of the mean gradient of depth [radian].

    Parameters
    ----------
    depth
        ``rows columns``, rising through the cortex, of any type: it is made signed first, as differences are.

    Returns
    -------
    float
        ``-arctan2(mean d/drow, mean d/dcolumn)``; 0 where depth does not change.

    >>> falling = np.arange(4, 0, -1, dtype=np.uint8)
    >>> round(depth_angle(np.tile(falling[:, None], (1, 4))), 4)
    1.5708
    """
    rows, columns = (float(part.mean()) for part in np.gradient(depth.astype(np.float64)))
    return -math.atan2(rows, columns) if rows or columns else 0.0


def larger(edges: Sequence[int]) -> tuple[int, int]:
    """Give the edges that must be read so that a patch of others can be turned by any angle: those of its diagonal."""
    reach = math.ceil(math.hypot(*edges)) + 1
    # as even or as odd as the patch, which then lies in the very middle
    rows, columns = (reach + (reach - edge) % 2 for edge in edges)
    return rows, columns


def turned(image: Tensor, angle: float, edges: Sequence[int]) -> Tensor:
    """Turn ``channel rows columns`` about its middle and cut the middle out, ``channel *edges``, by linear interpolation.

    After a turn by `depth_angle`, depth rises along the columns, to the right.
    """
    rows, columns = image.shape[1:]
    tall, wide = edges
    down = torch.arange(tall, dtype=torch.float32)[:, None] - (tall - 1) / 2
    right = torch.arange(wide, dtype=torch.float32)[None] - (wide - 1) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    at_row = down * cos - right * sin
    at_column = down * sin + right * cos
    grid = torch.stack(
        [at_column * (2 / max(1, columns - 1)), at_row * (2 / max(1, rows - 1))], dim=-1
    )
    return F.grid_sample(image[None], grid[None], align_corners=True, padding_mode="zeros")[0]


def cut_turned(
    section: Record, at: tuple[float, float], edges: tuple[int, int], angle: float
) -> Tensor:
    """Cut a patch about a place of a section, ``channel *edges``, turned by an angle [radian]; 0 leaves pixels as they are."""
    if not angle:
        return section.patch(_start(at, edges), edges)
    whole = larger(edges)
    return turned(section.patch(_start(at, whole), whole), angle, edges)


def depth_about(
    section: Record, at: tuple[float, float], patch: tuple[int, int]
) -> NDArray[np.int64]:
    """Read the map of depth about a place, ``25 25``: the same share of a patch whatever its pixels."""
    edges = tuple(max(CELLS, round(SHARE * edge)) for edge in patch)
    whole = section.mask_patch(_start(at, edges), edges).numpy()
    rows, columns = (np.linspace(0, edge - 1, CELLS).round().astype(np.int64) for edge in edges)
    cells: NDArray[np.int64] = whole[np.ix_(rows, columns)]
    return cells


def _start(at: tuple[float, float], edges: Sequence[int]) -> tuple[int, ...]:
    """Give the first pixel of a patch whose middle is nearest to a place."""
    return tuple(round(middle - (edge - 1) / 2) for middle, edge in zip(at, edges, strict=True))
