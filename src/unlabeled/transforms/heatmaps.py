"""Places in the plane as heatmaps: a Gaussian blob on a grid over [-1, 1] x [-1, 1], and back."""

from __future__ import annotations

import torch
from torch import Tensor

CELLS, PEAK, SHARPNESS = 19, 10.0, 15.0  # along an edge; at the place itself; per squared unit


def draw_blobs(
    places: Tensor, cells: int = CELLS, peak: float = PEAK, sharpness: float = SHARPNESS
) -> Tensor:
    """Draw ``peak * exp(-sharpness * squared distance)`` about each place.

    Parameters
    ----------
    places
        ``batch 2``: column and row in [-1, 1], which are the middles of the outermost cells.
    cells
        Along an edge of the map.
    peak
        Largest value.
    sharpness
        How fast it falls.

    Returns
    -------
    Tensor
        ``batch 1 cells cells``.

    Notes
    -----
    Source: Blendowski et al., MICCAI 2019, published code.

    >>> draw_blobs(torch.zeros(1, 2))[0, 0, 9, 9:11]  # 10 and 10 * exp(-15 / 81)
    tensor([10.0000,  8.3095])
    """
    grid = torch.linspace(-1, 1, cells, dtype=places.dtype, device=places.device)
    lines = torch.exp(-sharpness * (grid - places[..., None]).square())  # batch 2 cells
    return peak * (lines[:, 1, :, None] * lines[:, 0, None, :])[:, None]


def find_blobs(maps: Tensor) -> Tensor:
    """Find the largest cell of each map ``batch 1 cells cells``: column and row in [-1, 1], ``batch 2``."""
    cells = maps.shape[-1]
    rows, columns = torch.unravel_index(maps.flatten(1).argmax(1), (cells, cells))
    return torch.stack([columns, rows], 1) * (2 / (cells - 1)) - 1


def mean_blob(low: float, high: float, cells: int = CELLS, *, steps: int = 4001) -> Tensor:
    """Average the blobs of all places from `low` to `high` to either side along both axes: ``1 1 cells cells``.

    It is the constant map with the smallest error.
    """
    along = torch.linspace(low, high, steps, dtype=torch.float64)
    grid = torch.linspace(-1, 1, cells, dtype=torch.float64)
    line = torch.exp(-SHARPNESS * (grid[:, None] - along).square()).mean(1)
    line = (line + line.flip(0)) / 2
    return (PEAK * line[:, None] * line).float()[None, None]
