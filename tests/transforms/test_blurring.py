"""Blur against SciPy's, and its random widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from unlabeled.rng import generator
from unlabeled.transforms.blurring import Blur, blur


@pytest.mark.parametrize("widths", [(1.3, 0.4), (2.0, 0.7, 1.1), (0.0, 3.0), (6.0, 1.0)])
def test_as_scipy_blurs(widths):
    image = torch.rand(2, *(9, 14, 7)[: len(widths)], generator=generator(0))
    for ours, channel in zip(blur(image, widths), image.numpy(), strict=True):
        np.testing.assert_allclose(ours, gaussian_filter(channel, widths), atol=1e-5)


def test_sums_stay_and_without_width_nothing_changes():
    image = torch.rand(1, 12, 12, generator=generator(0))
    torch.testing.assert_close(blur(image, (1.5, 1.5)).sum(), image.sum())
    for same in (blur(image, (0.0, 0.0)), Blur(p=0.0)(image, generator(0))):
        assert torch.equal(same, image)
        assert same is not image


def test_widths_are_drawn_between_the_ends():
    drawn = [Blur(0.5, 2.0, each_axis=True).draw(3, generator(seed)) for seed in range(200)]
    widths = np.array(drawn)
    assert 0.5 <= widths.min() < 0.6
    assert 1.9 < widths.max() <= 2.0
    assert len({*drawn[0]}) == 3
    assert len({*Blur().draw(3, generator(0))}) == 1


def test_some_are_not_blurred():
    image = torch.rand(1, 8, 8, generator=generator(0))
    kept = sum(torch.equal(Blur(1.0, p=0.5)(image, generator(seed)), image) for seed in range(200))
    assert 70 < kept < 130
