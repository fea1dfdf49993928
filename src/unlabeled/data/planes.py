"""Planes in space: where the pixels of an image lie in the scanner, and where the planes of two images cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import ScanError

Vector: TypeAlias = NDArray[np.float64]

#: Sine of the smallest angle between two planes that are taken to cut: below, a line's place is mostly noise.
LEAST_SINE = 0.1

_LPS = np.array(
    [-1.0, -1.0, 1.0]
)  # times a position in the world of DICOM: in the world of NIfTI, and back


class ParallelPlanesError(ScanError):
    """Two planes are parallel, or nearly so, and cut nowhere that could be used."""


class Line(NamedTuple):
    """A line in space: a point on it [mm], and its direction, of length 1."""

    point: Vector
    direction: Vector


@dataclass(frozen=True, eq=False, slots=True)
class Plane:
    """The plane of one image, RAS+ world [mm].

    Parameters
    ----------
    origin
        Middle of the first pixel.
    first, second
        Directions in which the index along the array's two axes grows, of length 1.
    spacing
        From one pixel to the next along these axes [mm].
    space
        Pixels along these axes.
    """

    origin: Vector
    first: Vector
    second: Vector
    spacing: tuple[float, float]
    space: tuple[int, int]

    @classmethod
    def of(cls, affine: NDArray[np.float64], space: Sequence[int], across: int, place: int) -> Self:
        """Take one slice of a volume, or a picture, out of its affine.

        Parameters
        ----------
        affine
            Voxel index to RAS+ world, 4x4 [mm].
        space
            Voxels along each axis, three or two.
        across
            Axis along which the slices are counted; 2 for a picture.
        place
            Number of the slice.
        """
        one, other = (axis for axis in range(3) if axis != across)
        columns = affine[:3, [one, other]]
        lengths = np.linalg.norm(columns, axis=0)
        return cls(
            origin=affine[:3, 3] + place * affine[:3, across],
            first=columns[:, 0] / lengths[0],
            second=columns[:, 1] / lengths[1],
            spacing=(float(lengths[0]), float(lengths[1])),
            space=(space[one], space[other]),
        )

    @classmethod
    def of_dicom(
        cls,
        position: Sequence[float],
        orientation: Sequence[float],
        spacing: Sequence[float],
        space: Sequence[int],
    ) -> Self:
        """Take the plane of a DICOM image; the array's axes are its rows and its columns.

        Parameters
        ----------
        position
            ImagePositionPatient, LPS world [mm].
        orientation
            ImageOrientationPatient: where the column's number grows, then where the row's does.
        spacing
            PixelSpacing: from row to row, then from column to column [mm].
        space
            Rows and columns.
        """
        along = np.asarray(orientation, np.float64).reshape(2, 3) * _LPS
        return cls(
            origin=np.asarray(position, np.float64) * _LPS,
            first=along[1],
            second=along[0],
            spacing=(float(spacing[0]), float(spacing[1])),
            space=(int(space[0]), int(space[1])),
        )

    @classmethod
    def through(cls, point: Vector, normal: Vector) -> Self:
        """Make a plane that no image shows, from a point in it [mm] and its normal, of any length."""
        upright = normal / np.linalg.norm(normal)
        aside = np.zeros(3)
        aside[np.abs(upright).argmin()] = 1.0
        first = np.cross(aside, upright)
        first /= np.linalg.norm(first)
        return cls(np.asarray(point), first, np.cross(upright, first), (1.0, 1.0), (1, 1))

    @property
    def normal(self) -> Vector:
        """Direction in which no pixel lies, of length 1."""
        upright = np.cross(self.first, self.second)
        normal: Vector = upright / np.linalg.norm(upright)
        return normal

    @property
    def middle(self) -> Vector:
        """Middle of the image [mm]."""
        return self.point(np.array([(edge - 1) / 2 for edge in self.space]))

    def point(self, pixel: NDArray[np.float64]) -> Vector:
        """Place an index along both axes, which need not be whole, in the world [mm]."""
        one, other = pixel * self.spacing
        found: Vector = self.origin + one * self.first + other * self.second
        return found

    def pixel(self, point: Vector) -> NDArray[np.float64]:
        """Give the index along both axes of a point of the plane; others are dropped onto it at right angles.

        >>> plane = Plane.of(np.diag([2.0, 4.0, 1.0, 1.0]), (8, 8), across=2, place=0)
        >>> plane.pixel(np.array([3.0, 8.0, 5.0]))
        array([1.5, 2. ])
        """
        away = point - self.origin
        return np.array([away @ self.first, away @ self.second]) / self.spacing

    def distance(self, point: Vector) -> float:
        """Measure how far a point lies from the plane [mm]; negative on the side that `normal` points away from."""
        return float((point - self.origin) @ self.normal)


def cut(plane: Plane, other: Plane, near: Vector) -> Line:
    """Find the line in which two planes cut: n.X = n.O, m.X = m.q, d.X = d.X0, with d = n x m.

    Parameters
    ----------
    plane, other
        The planes, without end: the images need not reach one another.
    near
        Of the line, the point nearest to this one is given [mm].

    Raises
    ------
    ParallelPlanesError
        They are parallel, or nearly so.
    """
    n, m = plane.normal, other.normal
    direction = np.cross(n, m)
    sine = float(np.linalg.norm(direction))
    if sine < LEAST_SINE:
        raise ParallelPlanesError(
            f"has two planes that are nearly parallel ({np.degrees(np.arcsin(sine)):.1f} degrees apart)",
            "Use planes that cut one another, or leave the study out.",
        )
    direction /= sine
    sides = np.array([n @ plane.origin, m @ other.origin, direction @ near])
    return Line(np.linalg.solve(np.stack([n, m, direction]), sides), direction)


def meet(plane: Plane, other: Plane, third: Plane) -> Vector:
    """Find the point that three planes share [mm].

    Raises
    ------
    ParallelPlanesError
        Two are parallel, or the line in which two cut runs along the third, or nearly so.
    """
    line = cut(plane, other, plane.origin)
    steep = float(line.direction @ third.normal)
    if abs(steep) < LEAST_SINE:
        raise ParallelPlanesError(
            "has three planes that share no single point",
            "Use planes that cut one another, or leave the study out.",
        )
    return line.point - line.direction * (third.distance(line.point) / steep)
