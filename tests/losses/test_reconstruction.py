"""Losses between pictures and responses, against the published arrays and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.reconstruction import (
    cosine_proximity,
    group_lasso,
    identification,
    kernel_penalty,
    mean_magnitude,
    pixel_correlations,
    relative_error,
    reliable_error,
    response_error,
    total_variation,
)


@pytest.fixture
def arrays(golden):
    return np.load(golden / "fmri-reconstruction" / "losses.npz")


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name]) for name in names]


def test_response_losses_equal_the_published_ones(arrays):
    truth, guess, trusted = tensors(arrays, "y_true", "y_pred", "snr_normalised")
    for found, name in [
        (cosine_proximity(truth, guess), "cosine_proximity"),
        (response_error(truth, guess, 0.1), "encoder_loss"),
        (reliable_error(truth, guess, trusted, 0.0), "voxel_mae_snr"),
        (reliable_error(truth, guess, trusted, 0.1), "voxel_loss"),
    ]:
        np.testing.assert_allclose(found, arrays[name], atol=1e-5)


def test_picture_losses_equal_the_published_ones(arrays):
    truth, guess = (each.permute(0, 3, 1, 2) for each in tensors(arrays, "x_true", "x_pred"))
    magnitude = mean_magnitude(truth)
    np.testing.assert_allclose(magnitude, arrays["pixel_norm"], atol=1e-5)
    np.testing.assert_allclose(total_variation(guess), arrays["tv_pred"], atol=1e-5)
    np.testing.assert_allclose(
        relative_error(truth, guess, magnitude), arrays["pixel_loss"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("kernel", "weights", "neighbours", "name"),
    [
        ("kernel_encoder", (10.0, 800.0), 0.5, "reg_encoder"),
        ("kernel_encoder", (10.0, 800.0), 0.0, "reg_encoder_no_neighbour"),
        ("kernel_decoder", (20.0, 400.0), 0.5, "reg_decoder"),
    ],
)
def test_group_lasso_equals_the_published_one(golden, kernel, weights, neighbours, name):
    arrays = np.load(golden / "fmri-reconstruction" / "group_lasso.npz")
    ours = torch.from_numpy(arrays[kernel]).permute(3, 2, 0, 1)  # voxel, channel, row, column
    assert float(group_lasso(ours, *weights, neighbours)) == pytest.approx(
        float(arrays[name]), rel=1e-4
    )


@given(seed=st.integers(0, 2**31))
def test_a_group_is_the_channels_at_one_place_for_one_voxel(seed):
    """Moving energy among the channels of a place changes nothing; spreading it over places costs more."""
    rng = torch.Generator().manual_seed(seed)
    kernel = torch.zeros(2, 4, 3, 3)
    kernel[0, :, 1, 1] = torch.rand(4, generator=rng) + 0.1
    one = torch.zeros_like(kernel)
    one[0, 2, 1, 1] = kernel[0, :, 1, 1].norm()
    assert float(group_lasso(one, 0.0, 1.0)) == pytest.approx(float(group_lasso(kernel, 0.0, 1.0)))
    spread = torch.zeros_like(kernel)
    spread[0, 0, :, 1] = kernel[0, :, 1, 1].norm() / 3**0.5
    assert float(group_lasso(spread, 0.0, 1.0, 0.0)) > float(group_lasso(one, 0.0, 1.0, 0.0))


def test_a_zero_kernel_has_a_finite_slope():
    kernel = torch.zeros(2, 3, 4, 4, requires_grad=True)
    group_lasso(kernel, 10.0, 800.0).backward()
    assert kernel.grad is not None
    assert kernel.grad.isfinite().all()


def test_a_perfect_guess_costs_minus_the_weight_of_the_proximity():
    truth = torch.randn(3, 20)
    assert cosine_proximity(truth, truth).tolist() == pytest.approx([-1.0] * 3)
    assert reliable_error(truth, truth, torch.ones(20), 0.1).tolist() == pytest.approx([-0.1] * 3)
    assert response_error(truth, truth, 0.1).tolist() == pytest.approx([-0.1] * 3)


@given(value=st.floats(0, 1), power=st.floats(0.5, 3))
def test_a_constant_picture_varies_nowhere(value, power):
    assert total_variation(torch.full((2, 3, 5, 6), value), power).tolist() == [0, 0]


def test_the_exponent_acts_on_the_squared_gradient():
    picture = torch.zeros(1, 1, 2, 2)
    picture[..., 1, 0], picture[..., 0, 1] = 0.3, 0.4
    assert float(total_variation(picture)) == pytest.approx(0.25**1.25)


def test_pixel_correlations_equal_numpys():
    rng = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 4, 3, 5, 5, generator=rng)
    expected = np.corrcoef(one.flatten(1), other.flatten(1))[:4, 4:]
    np.testing.assert_allclose(pixel_correlations(one, other), expected, atol=1e-5)
    flat = torch.full((1, 3, 5, 5), 0.5)
    assert float(pixel_correlations(flat, one[:1])) == 0


def test_identification_knows_chance_and_repeated_pictures():
    rng = torch.Generator().manual_seed(0)
    shown = torch.rand(40, 1, 6, 6, generator=rng)
    noise = torch.rand(40, 1, 6, 6, generator=rng)
    assert float(identification(shown, shown)) == 1
    assert 0.4 < float(identification(noise, shown)) < 0.6
    assert float(identification(torch.full_like(shown, 0.3), shown)) == 0.5
    assert float(identification(shown[:1], shown[:1])) == 0.5
    twice = shown[[0, 0, 1]]
    assert float(identification(twice, twice)) == 1


def test_kernels_are_summed():
    assert float(kernel_penalty([torch.full((2, 3), -2.0)], 0.5, 0.25)) == pytest.approx(12.0)
    assert float(kernel_penalty([], 1.0)) == 0
