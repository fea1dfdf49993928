"""Views of a body in its box: turned, moved and scaled in the plane, some slices thick, all of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.bodies import Body
from unlabeled.transforms import _warping
from unlabeled.transforms._draws import chance, uniforms


@dataclass(frozen=True)
class Pose:
    """How a body is looked at.

    Parameters
    ----------
    degrees
        Turn in the plane.
    zoom
        Magnification.
    shift
        Move along both axes of the plane, over the edges of what is seen.
    slices
        Move across slices [slice].
    mirrored
        Whether the slices are in reverse order.
    """

    degrees: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    slices: int = 0
    mirrored: bool = False


@dataclass(frozen=True)
class BodyView:
    """Cut out a body with some surroundings, in planes along the last two axes, and resample it to one size.

    What is seen has the proportions of the view, in mm where the spacing is known, and holds the box: a small body
    fills the view as a large one does.  Slices are those of the scan, unchanged, around the box's middle.

    Parameters
    ----------
    size
        Edges of the view [voxel]: slices first, then the plane; a single plane of volumes and pictures has two edges.
    surround
        What is added on every side, over the longer edge of the box.
    rotation
        Largest turn to either side [degree].
    zoom
        Smallest and largest magnification.
    shift
        Largest move over the edges of what is seen.
    slices
        Largest move across slices, either way [slice].
    p_mirror
        Probability of reversing the order of slices: left and right.
    """

    size: tuple[int, ...]
    surround: float = 1.0
    rotation: float = 15.0
    zoom: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.05
    slices: int = 1
    p_mirror: float = 0.5

    def draw(self, rng: Generator) -> Pose:
        """Draw how a body is looked at; as many numbers whatever the limits are."""
        turn, size, down, right, slices = uniforms(5, rng)
        low, high = self.zoom
        return Pose(
            degrees=self.rotation * (2 * turn - 1),
            zoom=low + (high - low) * size,
            shift=(self.shift * (2 * down - 1), self.shift * (2 * right - 1)),
            slices=int(slices * (2 * self.slices + 1)) - self.slices,
            mirrored=chance(self.p_mirror, rng),
        )

    def __call__(self, body: Body, pose: Pose | None = None) -> Tensor:
        """Look at a body, ``channel *size``; what lies beyond the scan is the window's low end, or 0."""
        pose = pose or Pose()
        record, plane = body.record, self.size[-2:]
        matrix, middle = self._map(body, pose)
        reach = np.abs(matrix).sum(1)
        start = np.floor(middle - reach - 0.5).astype(int)
        edges = np.ceil(middle + reach - 0.5).astype(int) + 1 - start
        across: list[tuple[int, int]] = []
        for (begin, end), _ in zip(body.bounds[:-2], record.space[:-2], strict=True):
            thick = self.size[0] if len(self.size) == 3 else 1
            across.append((math.floor((begin + end - thick) / 2 + 0.5) + pose.slices, thick))
        read = record.patch(
            [*(first for first, _ in across), *start.tolist()],
            [*(thick for _, thick in across), *edges.tolist()],
        )
        planes = np.ascontiguousarray(read.flatten(0, -3).numpy())
        seen = np.empty((len(planes), *plane), np.float32)
        _warping.interpolate(planes, _places(matrix, middle - 0.5 - start, plane), seen)
        view = torch.from_numpy(seen).reshape(len(read), *self.size)
        return view.flip(1) if pose.mirrored and len(self.size) == 3 else view

    def _map(self, body: Body, pose: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the map from the view, [-1, 1] along both axes, to the scan's edges of voxels: matrix and middle."""
        spacing = np.array((body.record.spacing or (1.0,) * body.record.dims)[-2:])
        bounds = np.array(body.bounds[-2:])
        lengths = (bounds[:, 1] - bounds[:, 0]) * spacing
        plane = np.array(self.size[-2:], np.float64)
        half = (lengths / plane).max() * plane * (0.5 + self.surround)
        turn = math.radians(pose.degrees)
        cos, sin = math.cos(turn), math.sin(turn)
        matrix = np.array([[cos, -sin], [sin, cos]]) * half / pose.zoom / spacing[:, None]
        middle = bounds.mean(1) + 2 * half * np.array(pose.shift) / spacing
        return matrix, middle


def _places(
    matrix: NDArray[np.float64], middle: NDArray[np.float64], plane: tuple[int, ...]
) -> NDArray[np.float32]:
    """Say where each pixel of a view comes from, ``2 rows columns``: row and column of what was read."""
    rows, columns = ((2 * np.arange(edge) + 1) / edge - 1 for edge in plane)
    places = np.empty((2, *plane), np.float32)
    for axis in range(2):
        places[axis] = middle[axis] + matrix[axis, 0] * rows[:, None] + matrix[axis, 1] * columns
    return places
