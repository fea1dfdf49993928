"""The virtual anatomy's deformations are invertible, smooth and drawn by seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.demo.deformation import Deformation, Lattice, draw_deformation, rotation

LATTICE = Lattice((-96.0, -132.0, -96.0), (96.0, 100.0, 108.0), 16.0)
SEEDS = st.integers(0, 2**31)


def draw(seed: int, **how: float) -> Deformation:
    return draw_deformation(LATTICE, np.random.default_rng(seed), **how)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, travel=st.floats(0.0, 12.0))
def test_no_cell_of_space_folds(seed, travel):
    determinants = draw(seed, travel=travel).determinants()
    assert determinants.shape == tuple(edge - 1 for edge in LATTICE.shape)
    assert determinants.min() > 0.0


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_the_inverse_leads_back(seed):
    deformation = draw(seed)
    head = np.random.default_rng(seed).uniform(-70.0, 70.0, (3, 500))
    there = deformation(head)
    assert np.abs(there - head).max() > 1.0
    assert np.abs(deformation.inverse(there) - head).max() < 0.1  # a fortieth of a voxel of 4 mm
    assert np.abs(deformation(deformation.inverse(head)) - head).max() < 0.1


def test_determinants_are_the_ratio_of_volumes():
    still = draw(0, travel=0.0)
    expected = np.linalg.det(still.linear)
    assert np.allclose(still.determinants(), expected)
    assert expected != pytest.approx(1.0, abs=1e-3)


def test_the_flow_of_the_negated_velocity_leads_back():
    lattice = Lattice((-64.0, -64.0, -64.0), (64.0, 64.0, 64.0), 8.0)
    flow = draw_deformation(
        lattice, np.random.default_rng(3), travel=5.0, scaling=0, shearing=0, tilt=0, shift=0
    )
    around = flow.back + lattice.sample(flow.forth, lattice.points() + flow.back)
    assert np.sqrt((around**2).sum(axis=0)).mean() < 0.02 * np.abs(flow.forth).max()
    assert np.abs(flow.forth).max() > 4.0
    assert np.abs(flow.forth[:, 0]).max() == 0.0  # the faces stay where they are


def test_the_same_seed_gives_the_same_deformation():
    points = np.random.default_rng(0).uniform(-70.0, 70.0, (3, 50))
    assert np.array_equal(draw(5)(points), draw(5)(points))
    assert not np.allclose(draw(5)(points), draw(6)(points))


def test_rotations_are_proper():
    turn = rotation(np.array([11.0, -7.0, 20.0]))
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1.0)
    assert np.allclose(rotation(np.array([90.0, 0, 0])) @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(rotation(np.array([0, 90.0, 0])) @ [0, 0, 1], [1, 0, 0])
