"""Smooth invertible deformations of anatomy: an affine map after the flow of a smooth velocity field.

The flow of a stationary velocity field is found by scaling and squaring (Arsigny et al., MICCAI 2006): the field is
divided by a power of two until a step is small enough to be invertible by itself, and the small step is then composed
with itself as often.  The flow of the negated field is the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates  # type: ignore[attr-defined]

_STEP = 0.125  # longest single step, as a share of a grid cell: composing such steps keeps the map invertible
_REFINEMENTS = 6


@dataclass(frozen=True)
class Lattice:
    """A box of world space and the regular points that carry a field on it.

    Parameters
    ----------
    low, high
        Corners [mm]; the last points may lie a little beyond `high`.
    spacing
        Distance of neighbouring points [mm].
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    spacing: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""
        edges = np.subtract(self.high, self.low) / self.spacing
        return tuple(int(edge) + 1 for edge in np.ceil(edges - 1e-9))

    def points(self) -> NDArray[np.float64]:
        """Give the positions of all points, ``3 *shape`` [mm]."""
        axes = [
            low + self.spacing * np.arange(count)
            for low, count in zip(self.low, self.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def sample(
        self, field: NDArray[np.float64], points: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Interpolate a field ``3 *shape`` linearly at points ``3 *any`` [mm]; beyond the box it is 0."""
        low = np.reshape(self.low, (3,) + (1,) * (points.ndim - 1))
        places = (points - low) / self.spacing
        return np.stack([map_coordinates(part, places, order=1, mode="constant") for part in field])


@dataclass(frozen=True)
class Deformation:
    """An invertible map of world space: first `linear` about `centre` and `shift`, then the flow.

    Parameters
    ----------
    lattice
        Where the displacements live.
    forth, back
        Displacements of the flow and of its inverse, ``3 *lattice.shape`` [mm].
    linear
        3x3 matrix of positive determinant.
    centre, shift
        Fixed point of the matrix, and the translation after it [mm].
    """

    lattice: Lattice
    forth: NDArray[np.float64]
    back: NDArray[np.float64]
    linear: NDArray[np.float64]
    centre: NDArray[np.float64]
    shift: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points ``3 *any`` [mm]."""
        column = (3,) + (1,) * (points.ndim - 1)
        centre, shift = self.centre.reshape(column), self.shift.reshape(column)
        moved = np.tensordot(self.linear, points - centre, axes=1) + centre + shift
        return moved + self.lattice.sample(self.forth, moved)

    def inverse(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points ``3 *any`` [mm] back to where they came from."""
        column = (3,) + (1,) * (points.ndim - 1)
        centre, shift = self.centre.reshape(column), self.shift.reshape(column)
        moved = points + self.lattice.sample(self.back, points)
        for _ in range(_REFINEMENTS):  # takes away what interpolation left between the two flows
            moved = points - self.lattice.sample(self.forth, moved)
        return np.tensordot(np.linalg.inv(self.linear), moved - centre - shift, axes=1) + centre

    def determinants(self) -> NDArray[np.float64]:
        """Give the determinant of the map's Jacobian in every cell of the lattice (forward differences)."""
        points = self.lattice.points()
        flowed = points + self.forth
        columns = []
        for axis in range(1, 4):
            others = tuple(slice(0, None if i in (0, axis) else -1) for i in range(4))
            columns.append(np.diff(flowed, axis=axis)[others])
        matrices = np.moveaxis(np.stack(columns, axis=1) / self.lattice.spacing, (0, 1), (-2, -1))
        found = np.linalg.det(matrices) * np.linalg.det(self.linear)
        return np.asarray(found, dtype=np.float64)


def draw_deformation(
    lattice: Lattice,
    rng: np.random.Generator,
    *,
    travel: float = 5.0,
    smoothness: float = 26.0,
    scaling: float = 0.06,
    shearing: float = 0.04,
    tilt: float = 4.0,
    shift: float = 3.0,
) -> Deformation:
    """Draw a deformation.

    Parameters
    ----------
    lattice
        Where the velocity lives; the flow vanishes on the faces of its box.
    rng
        Source of all random numbers.
    travel
        Root mean square length of the velocity, at its largest over the axes [mm per unit time].
    smoothness
        Standard deviation of the Gaussian that smooths the velocity [mm].
    scaling, shearing
        Standard deviations of the stretch along, and of the shear between, the axes.
    tilt
        Standard deviation of the rotation about each axis [degree].
    shift
        Standard deviation of the translation along each axis [mm].

    Returns
    -------
    Deformation
        With a positive Jacobian everywhere on the lattice.
    """
    velocity = rng.standard_normal((3, *lattice.shape))
    width = smoothness / lattice.spacing
    velocity = np.stack([gaussian_filter(part, width, mode="constant") for part in velocity])
    for axis, count in enumerate(lattice.shape, start=1):
        place = np.linspace(0.0, np.pi, count)
        ramp = np.sin(place) ** 0.5  # 0 on the faces, about 1 around the middle
        velocity *= ramp.reshape([-1 if other == axis else 1 for other in range(4)])
    velocity *= travel / max(np.sqrt((velocity**2).sum(axis=0).mean()), 1e-12)
    stretch = np.diag(np.exp(rng.normal(0.0, scaling, 3)))
    stretch += np.triu(rng.normal(0.0, shearing, (3, 3)), 1)
    linear = rotation(rng.normal(0.0, tilt, 3)) @ stretch
    centre = (np.asarray(lattice.low) + np.asarray(lattice.high)) / 2
    return Deformation(
        lattice,
        _flow(lattice, velocity),
        _flow(lattice, -velocity),
        linear,
        centre,
        rng.normal(0.0, shift, 3),
    )


def rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the rotation by three angles about x, y and z, in this order [degree].

    >>> rotation(np.array([0.0, 0.0, 90.0])).round(6) + 0.0
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    whole = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        sign = -1.0 if axis == 1 else 1.0
        turn[first, second], turn[second, first] = -sign * np.sin(angle), sign * np.sin(angle)
        whole = turn @ whole
    return whole


def _flow(lattice: Lattice, velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrate a velocity over unit time: displacements ``3 *lattice.shape`` [mm]."""
    longest = np.abs(velocity).max() / lattice.spacing
    squarings = max(1, int(np.ceil(np.log2(max(longest / _STEP, 1.0)))))
    displacement: NDArray[np.float64] = velocity / 2**squarings
    points = lattice.points()
    for _ in range(squarings):
        displacement = displacement + lattice.sample(displacement, points + displacement)
    return displacement
