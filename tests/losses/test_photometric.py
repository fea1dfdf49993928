"""Losses between two pictures of a scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from unlabeled.losses.photometric import (
    edge_aware_smoothness,
    photometric_error,
    structural_distance,
)
from unlabeled.rng import generator

EDGE = st.integers(3, 9)


def two(seed: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = torch.rand(2, 1, 2, rows, columns, generator=generator(seed))
    return one, other


def test_distance_is_that_of_structural_similarity():
    """Windows of 3 x 3, means and variances without the correction for samples."""
    one, other = two(0, 12, 15)
    near = 0.7 * one + 0.3 * other
    _, similar = structural_similarity(
        one[0, 0].double().numpy(), near[0, 0].double().numpy(), win_size=3, full=True,
        data_range=1.0, use_sample_covariance=False,
    )  # fmt: skip
    found = structural_distance(one, near)[0, 0]
    assert found.shape == (10, 13)
    wanted = np.clip((1 - similar[1:-1, 1:-1]) / 2, 0, 1)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)


@given(seed=st.integers(0, 2**31), rows=EDGE, columns=EDGE, alpha=st.floats(0, 1))
def test_errors_are_symmetric_bounded_and_nothing_for_equal_pictures(seed, rows, columns, alpha):
    one, other = two(seed, rows, columns)
    distance = structural_distance(one, other)
    assert distance.shape == (1, 2, rows - 2, columns - 2)
    assert 0 <= distance.min() <= distance.max() <= 1
    torch.testing.assert_close(distance, structural_distance(other, one), atol=1e-5, rtol=0)
    error = photometric_error(one, other, alpha)
    assert error.item() == pytest.approx(photometric_error(other, one, alpha).item(), abs=1e-5)
    assert photometric_error(one, one, alpha).item() == pytest.approx(0, abs=1e-5)
    low = photometric_error(one.half(), other.half(), alpha)
    assert low.dtype == torch.float32


@given(seed=st.integers(0, 2**31), rows=EDGE, columns=EDGE)
def test_smoothness_grows_with_slope_and_never_with_edges_of_the_picture(seed, rows, columns):
    disparity = torch.rand(1, 1, rows, columns, generator=generator(seed))
    image, _ = two(seed + 1, rows, columns)
    flat = edge_aware_smoothness(disparity, torch.zeros_like(image))
    slopes = [disparity.diff(dim=axis).abs().mean() for axis in (-1, -2)]
    assert flat.item() == pytest.approx(sum(slopes).item(), rel=1e-5)
    held = edge_aware_smoothness(disparity, image)
    assert held <= flat + 1e-6
    assert edge_aware_smoothness(3 * disparity, image).item() == pytest.approx(
        3 * held.item(), rel=1e-4
    )
