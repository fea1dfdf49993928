"""Views of a body in its box: turned, moved and scaled in the plane, some slices thick, all of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from unlabeled.data.bodies import Body
from unlabeled.transforms import _warping
from unlabeled.transforms._draws import chance, uniforms

_NO_MOVE = np.zeros((2, 0, 0), np.float32)


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
        (rows, columns), middle = self._map(body, pose)
        start, edges = [], []
        for at, ways in zip(middle, (rows, columns), strict=True):
            reach = sum(map(abs, ways))
            start.append(math.floor(at - reach - 0.5))
            edges.append(math.ceil(at + reach - 0.5) + 1 - start[-1])
        across: list[tuple[int, int]] = []
        for (begin, end), _ in zip(body.bounds[:-2], record.space[:-2], strict=True):
            thick = self.size[0] if len(self.size) == 3 else 1
            across.append((math.floor((begin + end - thick) / 2 + 0.5) + pose.slices, thick))
        read = record.patch(
            [*(first for first, _ in across), *start],
            [*(thick for _, thick in across), *edges],
        )
        planes = np.ascontiguousarray(read.flatten(0, -3).numpy())
        places = np.empty((2, *plane), np.float32)
        top, left = (at - 0.5 - first for at, first in zip(middle, start, strict=True))
        matrix = np.array([_by_pixels(columns, left, plane), _by_pixels(rows, top, plane)])
        _warping.sources(matrix, _NO_MOVE, places)
        seen = np.empty((len(planes), *plane), np.float32)
        _warping.interpolate(planes, places, seen)
        view = torch.from_numpy(seen).reshape(len(read), *self.size)
        return view.flip(1) if pose.mirrored and len(self.size) == 3 else view

    def _map(
        self, body: Body, pose: Pose
    ) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]:
        """Give the map from the view, [-1, 1] along both axes, to the scan's edges of voxels.

        What a step along either axis of the view adds to row and to column, and where its middle lies.
        """
        down, right = (body.record.spacing or (1.0,) * body.record.dims)[-2:]
        (top, bottom), (left, last) = body.bounds[-2:]
        height, width = self.size[-2:]
        scale = max((bottom - top) * down / height, (last - left) * right / width)
        high, wide = (scale * edge * (0.5 + self.surround) for edge in (height, width))
        turn = math.radians(pose.degrees)
        cos, sin = math.cos(turn) / pose.zoom, math.sin(turn) / pose.zoom
        rows = cos * high / down, -sin * wide / down
        columns = sin * high / right, cos * wide / right
        first, second = pose.shift
        middle = (top + bottom) / 2 + 2 * high * first / down, (left + last) / 2 + 2 * wide * second / right  # fmt: skip
        return (rows, columns), middle


def _by_pixels(
    ways: tuple[float, float], middle: float, plane: tuple[int, ...]
) -> tuple[float, float, float]:
    """Say where the pixel (column, row, 1) of a view lies along one axis, of steps of half a view and its middle."""
    (down, right), (rows, columns) = ways, plane
    return 2 * right / columns, 2 * down / rows, middle + down * (1 / rows - 1) + right * (1 / columns - 1)  # fmt: skip
