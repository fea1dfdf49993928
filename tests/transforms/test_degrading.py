"""Noise has the variance asked for; blur smooths and keeps what is even."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.degrading import GaussianBlur, GaussianNoise, blur


def test_variances_are_uniform_up_to_the_largest():
    image = torch.zeros(1, 20, 20, 20)
    variances = torch.stack(
        [GaussianNoise(0.1)(image, generator(seed)).var() for seed in range(300)]
    )
    assert variances.max() < 0.11
    assert variances.min() < 0.005
    assert float(variances.mean()) == pytest.approx(0.05, abs=0.006)
    assert float(variances.std()) == pytest.approx(0.1 / 12**0.5, abs=0.004)


def test_noise_is_centred_and_of_each_voxel_and_channel_by_itself():
    noise = GaussianNoise(1.0)(torch.zeros(2, 40, 40), generator(3))
    noise = noise / noise.std()
    assert abs(float(noise.mean())) < 0.05
    assert abs(float((noise[0] * noise[1]).mean())) < 0.08
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.08


@given(seed=st.integers(0, 10**6), sigma=st.floats(0.3, 2.0))
def test_blur_smooths_keeps_the_range_and_what_is_even(seed, sigma):
    image = torch.rand(2, 12, 9, 11, generator=generator(seed))
    smooth = blur(image, sigma)
    assert smooth.dtype == torch.float32
    assert smooth.shape == image.shape
    assert (smooth.amin((1, 2, 3)) >= image.amin((1, 2, 3)) - 1e-6).all()
    assert (smooth.amax((1, 2, 3)) <= image.amax((1, 2, 3)) + 1e-6).all()
    assert (smooth.var((1, 2, 3)) < image.var((1, 2, 3))).all()
    even = torch.full((1, 5, 5), 0.7)
    torch.testing.assert_close(blur(even, sigma), even)
    torch.testing.assert_close(blur(image[:1], sigma), smooth[:1])


def test_blur_is_the_same_along_all_axes():
    spot = torch.zeros(1, 9, 9, 9)
    spot[0, 4, 4, 4] = 1
    smooth = blur(spot, 0.8)[0]
    torch.testing.assert_close(smooth, smooth.permute(1, 2, 0))
    assert float(smooth.sum()) == pytest.approx(1, abs=1e-5)
    line = smooth.sum((1, 2))
    places = torch.arange(9.0) - 4
    assert float((line * places**2).sum()) == pytest.approx(0.64, abs=0.03)


@pytest.mark.parametrize("change", [GaussianNoise(0.1, 0.3), GaussianBlur(0.5, 1.0, 0.3)])
def test_probabilities(change):
    image = torch.rand(1, 4, 4, generator=generator(0))
    changed = [not torch.equal(change(image, generator(seed)), image) for seed in range(400)]
    assert 0.23 < sum(changed) / 400 < 0.37
    never = type(change)(p=0.0)(image, generator(0))
    assert torch.equal(never, image)
    assert never.data_ptr() != image.data_ptr()
