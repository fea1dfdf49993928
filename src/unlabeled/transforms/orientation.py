"""Turn patches of the cortex so that its depth points the same way in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from torch import Generator, Tensor

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
    signed = depth.astype(np.float64)
    rows, columns = _mean_slope(signed), _mean_slope(signed.T)
    return -math.atan2(rows, columns) if rows or columns else 0.0


def _mean_slope(depth: NDArray[np.float64]) -> float:
    """Average the central differences along the first axis, one-sided at both ends: all lines between cancel."""
    ends = 1.5 * (depth[-1] - depth[0]) - 0.5 * (depth[-2] - depth[1])
    return float(ends.sum() / depth.size)


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
    down, right = (np.arange(edge, dtype=np.float32) - np.float32((edge - 1) / 2) for edge in edges)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    scale = np.array([2 / max(1, columns - 1), 2 / max(1, rows - 1)], np.float32)
    grid = np.empty((1, *edges, 2), np.float32)
    _fill_grid(down * sin, right * cos, down * cos, right * sin, scale, grid[0])
    seen = F.grid_sample(
        image[None], torch.from_numpy(grid), align_corners=True, padding_mode="zeros"
    )
    return seen[0]


@njit(cache=True, nogil=True)
def _fill_grid(
    down_sin: NDArray[np.float32],
    right_cos: NDArray[np.float32],
    down_cos: NDArray[np.float32],
    right_sin: NDArray[np.float32],
    scale: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write where each pixel of a turned patch is read, ``rows columns 2``: column and row, as shares of the image."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j, 0] = (down_sin[i] + right_cos[j]) * scale[0]
            out[i, j, 1] = (down_cos[i] - right_sin[j]) * scale[1]


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
    rows, columns = map(_cells, edges)
    cells: NDArray[np.int64] = whole[rows[:, None], columns]
    return cells


@lru_cache(maxsize=8)
def _cells(edge: int) -> NDArray[np.int64]:
    """Spread the places of the map's cells over an edge, from its first pixel to its last."""
    return np.linspace(0, edge - 1, CELLS).round().astype(np.int64)


@dataclass(frozen=True)
class SectionPatch:
    """Cut a patch about a place of a section.

    Parameters
    ----------
    edges
        Of the patch [pixel].
    along_depth
        Whether it is turned so that the section's map of depth, its mask, rises to the right.
    rotation
        Largest further turn, to either side [degree].
    """

    edges: tuple[int, int]
    along_depth: bool = False
    rotation: float = 0.0

    def __call__(
        self, section: Record, at: tuple[float, float], rng: Generator | None = None
    ) -> Tensor:
        """Cut ``channel *edges``; without a generator, no further turn is drawn."""
        angle = depth_angle(depth_about(section, at, self.edges)) if self.along_depth else 0.0
        if rng is not None and self.rotation:
            share = 2 * torch.rand((), generator=rng).item() - 1
            angle += float(np.radians(share * self.rotation))
        return cut_turned(section, at, self.edges, angle)


def _start(at: tuple[float, float], edges: Sequence[int]) -> tuple[int, ...]:
    """Give the first pixel of a patch whose middle is nearest to a place."""
    return tuple(round(middle - (edge - 1) / 2) for middle, edge in zip(at, edges, strict=True))
