"""Volumes turned and zoomed about their middle."""

from __future__ import annotations

import math

import pytest
import torch

from unlabeled.rng import generator
from unlabeled.transforms.tilting import Tilt, tilt


def test_without_angle_and_zoom_nothing_changes():
    volume = torch.rand(2, 6, 8, 5, generator=generator(0))
    torch.testing.assert_close(Tilt(0.0, 0.0)(volume, generator(1)), volume)


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2, 0)])
def test_a_quarter_turn_is_one(axes):
    """Also where edges differ, beyond which lies the smallest intensity."""
    volume = torch.rand(1, 5, 5, 5, generator=generator(0)) + 1
    matrix = torch.eye(3)
    first, second = axes
    matrix[first, first] = matrix[second, second] = 0.0
    matrix[second, first], matrix[first, second] = 1.0, -1.0
    turned = tilt(volume, matrix)
    expected = torch.rot90(volume, 1, (first + 1, second + 1))
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)
    flat = volume[:, :, :3]
    torch.testing.assert_close(
        tilt(flat, torch.diag(torch.tensor([1.0, -1.0, 1.0]))), flat.flip(2), atol=1e-4, rtol=0
    )


def test_zooming_out_shows_the_smallest_intensity_around():
    volume = torch.full((1, 8, 8, 8), 3.0)
    volume[0, 4, 4, 4] = 2.0
    small = tilt(volume, torch.eye(3) * 0.5)
    assert float(small[0, 0, 0, 0]) == 2.0
    assert float(small[0, 3, 3, 3]) == 3.0


def test_angles_and_zooms_are_drawn_within_their_reach():
    zooms, angles = [], []
    for seed in range(300):
        matrix = Tilt(10.0, 0.1).draw(generator(seed))
        _turn, scale, _ = torch.linalg.svd(matrix)
        zooms.extend(scale.tolist())
        angles.append(math.degrees(math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))))
        assert torch.linalg.det(matrix) > 0
    assert 0.9 <= min(zooms) < 0.91
    assert 1.09 < max(zooms) <= 1.1 + 1e-6
    assert -12 < min(angles) < -8
    assert 8 < max(angles) < 12


def test_a_bright_spot_goes_where_the_matrix_says():
    volume = torch.zeros(1, 9, 9, 9)
    volume[0, 6, 4, 4] = 1.0
    shrunk = tilt(volume, torch.diag(torch.tensor([0.5, 1.0, 1.0])))
    assert float(shrunk[0, 5, 4, 4]) == pytest.approx(1.0, abs=1e-5)
