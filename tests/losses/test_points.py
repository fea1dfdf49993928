"""The contrast of points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.points import point_contrast


def test_must_have_5_losses_and_gradient_match_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "point_contrast_loss.npz")
    names = ("ovary_high", "ovary_low", "follicle_high", "follicle_low")
    sets = [torch.from_numpy(known[name]).requires_grad_() for name in names]
    ovary_high, ovary_low, follicle_high, follicle_low = sets
    follicle = point_contrast(follicle_high, follicle_low, ovary_high)
    ovary = point_contrast(ovary_high, ovary_low, follicle_high)
    both = (follicle + ovary) / 2
    for found, name in ((follicle, "loss_follicle"), (ovary, "loss_ovary"), (both, "loss_both")):
        assert float(found.detach()) == pytest.approx(float(known[name]), abs=1e-5)
    gradient = torch.cat(torch.autograd.grad(both, sets))
    torch.testing.assert_close(gradient, torch.from_numpy(known["grad"]), atol=1e-5, rtol=0)


@given(count=st.integers(1, 6), seed=st.integers(0, 99))
def test_nothing_costs_less_than_the_right_or_more_than_the_wrong_way_round(count, seed):
    rng = torch.Generator().manual_seed(seed)
    sets = torch.randn(3, count, 5, generator=rng)
    axis = torch.ones(count, 5)
    right, wrong = point_contrast(axis, axis, -axis), point_contrast(axis, -axis, axis)
    assert float(right) == pytest.approx(0, abs=1e-5)
    assert float(wrong) == pytest.approx(1, abs=1e-5)
    assert float(point_contrast(axis, axis, axis)) == pytest.approx(0.5, abs=1e-5)
    assert -1e-5 <= float(point_contrast(*sets)) <= 1 + 1e-5


def test_several_other_classes_weigh_as_one():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    one = point_contrast(x[:2], x[2:4], x[4:])
    many = point_contrast(x[:2], x[2:4], x[4:].repeat(3, 1), others=3)
    torch.testing.assert_close(one, many)
