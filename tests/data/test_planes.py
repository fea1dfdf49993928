"""Planes of images cut where their equations say, whatever wrote their geometry down."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.planes import ParallelPlanesError, Plane, cut, meet

LPS = np.array([-1.0, -1.0, 1.0])


def tilted(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])


def short_axis(kind: str) -> Plane:
    """The worked example's plane: origin 0, rows and columns along the patient's axes (LPS), 1.8 mm."""
    if kind == "dicom":
        return Plane.of_dicom((0, 0, 0), (1, 0, 0, 0, 1, 0), (1.8, 1.8), (96, 96))
    affine = np.diag(
        [-1.8, -1.8, 10.0, 1.0]
    )  # the same in RAS: first axis to the left, second to the back
    return Plane.of(affine, (96, 96, 1), across=2, place=0)


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_planes_cut_as_in_the_worked_examples(kind) -> None:
    """A: line of the first two planes, nearest to (40, 40, 0); B: the point of all three, and its pixel; LPS [mm]."""
    plane = short_axis(kind)
    second = Plane.through(np.array([30.0, 0, 0]) * LPS, tilted(30) * LPS)
    third = Plane.through(np.array([0.0, 40, 0]) * LPS, tilted(120) * LPS)
    line = cut(plane, second, np.array([40.0, 40, 0]) * LPS)
    np.testing.assert_allclose(line.point * LPS, [15.179492, 25.669873, 0], atol=1e-6)
    along = line.direction * LPS
    np.testing.assert_allclose(along * np.sign(along[1]), [-0.5, 0.866025, 0], atol=1e-6)
    shared = meet(plane, second, third)
    np.testing.assert_allclose(shared * LPS, [5.179492, 42.990381, 0], atol=1e-6)
    u, v = 2.877496, 23.883545  # column and row
    found = plane.pixel(shared)
    np.testing.assert_allclose(found, [v, u] if kind == "dicom" else [u, v], atol=1e-6)


def test_spacing_of_dicom_is_of_rows_then_of_columns() -> None:
    plane = Plane.of_dicom((0, 0, 0), (1, 0, 0, 0, 1, 0), (2.0, 0.5), (10, 20))
    np.testing.assert_allclose(plane.point(np.array([3.0, 4.0])) * LPS, [4 * 0.5, 3 * 2.0, 0])


def any_plane(draw: np.random.Generator) -> Plane:
    turn, _ = np.linalg.qr(draw.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * draw.uniform(0.5, 9, 3)
    affine[:3, 3] = draw.normal(0, 50, 3)
    return Plane.of(affine, (40, 30, 8), across=int(draw.integers(3)), place=int(draw.integers(8)))


@given(seed=st.integers(0, 2**31))
def test_the_crossing_lies_on_all_three_planes(seed) -> None:
    draw = np.random.default_rng(seed)
    planes = [any_plane(draw) for _ in range(3)]
    try:
        point = meet(*planes)
    except ParallelPlanesError:
        return
    for plane in planes:
        assert abs(plane.distance(point)) < 1e-6
        np.testing.assert_allclose(plane.point(plane.pixel(point)), point, atol=1e-6)


@given(seed=st.integers(0, 2**31))
def test_a_line_lies_in_both_planes_and_starts_nearest(seed) -> None:
    draw = np.random.default_rng(seed)
    one, other, near = any_plane(draw), any_plane(draw), draw.normal(0, 50, 3)
    try:
        line = cut(one, other, near)
    except ParallelPlanesError:
        return
    for t in (-70.0, 0.0, 40.0):
        point = line.point + t * line.direction
        assert abs(one.distance(point)) < 1e-6
        assert abs(other.distance(point)) < 1e-6
        assert np.linalg.norm(point - near) >= np.linalg.norm(line.point - near) - 1e-6
    assert abs((line.point - near) @ line.direction) < 1e-6


def test_parallel_planes_are_refused() -> None:
    plane = short_axis("nifti")
    beside = Plane.through(np.array([0.0, 0, 30]), plane.normal)
    upright = Plane.through(np.zeros(3), np.array([1.0, 0, 0]))
    leaning = Plane.through(np.zeros(3), np.array([1.0, 0.02, 0]))
    with pytest.raises(ParallelPlanesError, match="nearly parallel"):
        cut(plane, beside, np.zeros(3))
    with pytest.raises(ParallelPlanesError, match="share no single point"):
        meet(plane, upright, leaning)
