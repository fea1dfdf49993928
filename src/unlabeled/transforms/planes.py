"""Volumes as people look at them: the middle planes of all three axes in one picture."""

from __future__ import annotations

import torch
from torch import Tensor

SEAM = 1  # [voxel] between planes
LINE = 0.35  # how far a line of the grid lies between what is there and white


def three_planes(volume: Tensor, side: int | None = None) -> Tensor:
    """Lay the middle coronal and sagittal plane above the axial one, in a picture of a single slice.

    Parameters
    ----------
    volume
        ``batch channel x y z`` in [0, 1], axes as in RAS.
    side
        Draw light lines between sub-cubes of this edge [voxel]; without it, none.

    Returns
    -------
    Tensor
        ``batch channel columns rows 1``, rows upwards, as previews take slices.
    """
    *outer, x, y, z = volume.shape
    picture = volume.new_zeros(*outer, x + SEAM + y, y + SEAM + z)
    picture[..., :x, :y] = _ruled(volume[..., z // 2], side)
    picture[..., :x, y + SEAM :] = _ruled(volume[..., y // 2, :], side)
    picture[..., x + SEAM :, y + SEAM :] = _ruled(volume[..., x // 2, :, :], side)
    return picture[..., None]


def _ruled(plane: Tensor, side: int | None) -> Tensor:
    """Lighten the first voxels of all sub-cubes but the outermost, so that their borders show."""
    if side is None:
        return plane
    lines = torch.zeros(plane.shape[-2:], dtype=torch.bool, device=plane.device)
    lines[side::side] = True
    lines[:, side::side] = True
    return torch.where(lines, plane + LINE * (1 - plane), plane)
