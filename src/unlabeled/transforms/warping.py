"""Warps of pictures: turned, moved, sheared, zoomed and bent, the labels along with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.transforms import _kernels, _warping
from unlabeled.transforms._draws import seed, uniforms

_NO_MOVE = np.zeros((2, 0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class Warp:
    """One change of place of a picture: an affine map, then a bend, read by one linear interpolation.

    Parameters
    ----------
    matrix
        3x3, (column, row, 1) of the picture to (column, row, 1) of the result [pixel].
    move
        ``2 rows columns``: rows and columns that each pixel of the result looks aside in the mapped picture [pixel],
        mirrored at its borders; None bends nothing.
    """

    matrix: NDArray[np.float64]
    move: NDArray[np.float32] | None = None

    def places(self, space: Sequence[int]) -> NDArray[np.float32]:
        """Say where each pixel of the result comes from, ``2 rows columns``: row and column in the picture."""
        found = np.empty((2, *space), np.float32)
        move = _NO_MOVE if self.move is None else self.move
        _warping.sources(np.linalg.inv(self.matrix).astype(np.float64), move, found)
        return found

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Warp an image ``channel rows columns`` and its labels ``rows columns``; what comes from outside is 0.

        Each label's mask is interpolated linearly and rounded.
        """
        places = self.places(image.shape[1:])
        carried = np.empty(labels.shape, np.int64)
        _warping.carry_labels(np.ascontiguousarray(labels.numpy(), np.int64), places, carried)
        return _read(image, places), torch.from_numpy(carried)

    def nearest(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Warp an image ``channel rows columns`` and its labels ``rows columns``, each pixel's label that of the nearest one.

        What comes from outside is 0.
        """
        places = self.places(image.shape[1:])
        carried = np.empty(labels.shape, np.int64)
        _warping.carry_nearest(np.ascontiguousarray(labels.numpy(), np.int64), places, carried)
        return _read(image, places), torch.from_numpy(carried)

    def image(self, image: Tensor) -> Tensor:
        """Warp an image ``channel rows columns`` that has no labels; what comes from outside is 0."""
        return _read(image, self.places(image.shape[1:]))


@dataclass(frozen=True)
class RandomWarp:
    """Turn, move, shear, zoom and bend a picture (Ouyang et al., ECCV 2020).

    Parameters
    ----------
    rotation, shear
        Largest angle to either side [degree]: the rotation is about the middle, the shear about the first pixel.
    shift
        Largest move along each axis [pixel].
    zoom
        Smallest and largest magnification about the middle.
    elastic
        Factor of the displacements: numbers uniform in [-1, 1], blurred [pixel].
    smoothness
        Width of the blur, cut off at twice that [pixel].
    """

    rotation: float = 5.0
    shift: float = 5.0
    shear: float = 5.0
    zoom: tuple[float, float] = (0.9, 1.2)
    elastic: float = 10.0
    smoothness: float = 5.0

    def draw(self, space: Sequence[int], rng: Generator) -> Warp:
        """Draw a warp of pictures of one size; the maps follow one another in the order of the parameters."""
        turn, down, right, slant, size = uniforms(5, rng)
        low, high = self.zoom
        middle = (space[1] / 2, space[0] / 2)
        matrix = (
            zooming(low + (high - low) * size, middle)
            @ shearing(self.shear * (2 * slant - 1))
            @ shifting(self.shift * (2 * right - 1), self.shift * (2 * down - 1))
            @ rotating(self.rotation * (2 * turn - 1), middle)
        )
        start = seed(rng)
        if self.elastic == 0:
            return Warp(matrix)
        noise = np.empty((2, *space), np.float32)
        _kernels.fill_uniform(start, noise.reshape(-1))
        return Warp(matrix, bend(2 * noise - 1, self.elastic, self.smoothness))

    def __call__(self, image: Tensor, labels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Warp an image ``channel rows columns`` and its labels ``rows columns`` by one draw."""
        return self.draw(image.shape[1:], rng)(image, labels)


def _read(image: Tensor, places: NDArray[np.float32]) -> Tensor:
    pixels = np.ascontiguousarray(image.numpy(), np.float32)
    warped = np.empty_like(pixels)
    _warping.interpolate(pixels, places, warped)
    return torch.from_numpy(warped)


def rotating(degrees: float, middle: tuple[float, float]) -> NDArray[np.float64]:
    """Turn counter-clockwise, as seen with rows going down, about a middle (column, row)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = middle
    return np.array(
        [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y], [0, 0, 1]]
    )


def shifting(right: float, down: float) -> NDArray[np.float64]:
    """Move to the right and down [pixel]."""
    return np.array([[1.0, 0, right], [0, 1.0, down], [0, 0, 1.0]])


def shearing(degrees: float) -> NDArray[np.float64]:
    """Lean columns over by an angle, keeping their length."""
    angle = math.radians(degrees)
    return np.array([[1.0, -math.sin(angle), 0], [0, math.cos(angle), 0], [0, 0, 1.0]])


def zooming(factor: float, middle: tuple[float, float]) -> NDArray[np.float64]:
    """Magnify about a middle (column, row)."""
    x, y = middle
    return np.array([[factor, 0, (1 - factor) * x], [0, factor, (1 - factor) * y], [0, 0, 1.0]])


def bend(noise: NDArray[np.floating[Any]], factor: float, smoothness: float) -> NDArray[np.float32]:
    """Blur two fields of noise to displacements ``2 rows columns`` [pixel].

    The blur is SciPy's ``gaussian_filter(field, smoothness, mode="mirror", truncate=2.0)``.
    """
    taps, move = _gaussian(smoothness, 2.0), np.empty(noise.shape, np.float32)
    for field, blurred in zip(noise.astype(np.float32, copy=False), move, strict=True):
        _warping.blur(field, taps, blurred)
    return factor * move


@lru_cache(maxsize=16)
def _gaussian(width: float, truncate: float) -> NDArray[np.float32]:
    """Give the weights of a Gaussian filter that is cut off at so many widths; they sum to 1."""
    reach = int(truncate * width + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-9)) ** 2)
    taps: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return taps
