"""Volumes turned about all axes and zoomed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.transforms._draws import uniforms


@dataclass(frozen=True)
class Tilt:
    """Zoom a volume along each axis, then turn it about each axis, all about its middle.

    Parameters
    ----------
    degrees
        Largest angle about each axis, either way [degree]; uniform.
    zoom
        Largest change of each axis' magnification, which is uniform around 1.

    Notes
    -----
    Source: TorchIO's RandomAffine, whose defaults (unconfirmed) these are.
    """

    degrees: float = 10.0
    zoom: float = 0.1

    def draw(self, rng: Generator) -> Tensor:
        """Draw a map, 3x3: offset from the middle in the volume to that in the result [voxel]."""
        numbers = [2 * each - 1 for each in uniforms(6, rng)]
        scale = torch.diag(torch.tensor([1 + self.zoom * each for each in numbers[:3]]))
        turn = torch.eye(3)
        for axis, number in enumerate(numbers[3:]):
            turn = _about(axis, math.radians(self.degrees * number)) @ turn
        return turn @ scale

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Tilt ``channel *space``."""
        return tilt(image, self.draw(rng))


def tilt(image: Tensor, matrix: Tensor) -> Tensor:
    """Map the voxels of ``channel *space`` about the middle, linearly interpolated; beyond it lies its smallest intensity.

    Parameters
    ----------
    image
        A volume.
    matrix
        3x3, as `Tilt.draw` gives it.
    """
    edges = torch.tensor(image.shape[1:], dtype=torch.float32)
    # where each voxel comes from, in coordinates that run from -1 to 1 along all axes, the last axis first
    inverse = torch.linalg.inv(matrix) * edges / edges[:, None]
    theta = torch.cat([inverse.flip(0, 1), torch.zeros(3, 1)], dim=1)[None]
    grid = F.affine_grid(theta, [1, 1, *image.shape[1:]], align_corners=False)
    low = image.amin()
    found = F.grid_sample((image - low)[None], grid.to(image), align_corners=False)
    return found[0] + low


def _about(axis: int, angle: float) -> Tensor:
    """Turn in the plane of the other two axes [rad]."""
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    turn = torch.eye(3)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[second, first] = math.sin(angle)
    turn[first, second] = -math.sin(angle)
    return turn
