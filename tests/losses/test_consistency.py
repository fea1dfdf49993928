"""Voxelwise consistency: golden values, bounds, and what changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.consistency import spread, voxelwise_consistency
from unlabeled.rng import generator


def test_golden_arrays(golden):
    """The mean over voxels, and not the number of maps that are flattened to one vector (1.1598)."""
    arrays = np.load(golden / "pgl" / "consistency_loss.npz")
    prediction, target = (torch.from_numpy(arrays[name]) for name in ("prediction", "target"))
    found = voxelwise_consistency(prediction, target)
    assert float(found.mean()) == pytest.approx(float(arrays["loss_voxelwise_mean"]), abs=1e-5)
    own = (2 - 2 * arrays["cosine_per_voxel"]).reshape(2, -1).mean(1)
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-5)
    assert abs(float(found.mean()) - float(arrays["loss_flattened_vector"])) > 0.01


@given(seed=st.integers(0, 10**6))
def test_bounds_and_lengths(seed):
    rng = generator(seed)
    prediction, target = (torch.randn(2, 3, 4, 2, generator=rng) for _ in range(2))
    found = voxelwise_consistency(prediction, target)
    assert ((found >= 0) & (found <= 4)).all()
    longer = prediction * (0.1 + 5 * torch.rand(2, 1, 4, 2, generator=rng))
    torch.testing.assert_close(voxelwise_consistency(longer, target), found, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        voxelwise_consistency(3 * target, target), torch.zeros(2), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        voxelwise_consistency(-target, target), torch.full((2,), 4.0), rtol=0, atol=1e-5
    )


def test_the_gradient_reaches_the_prediction_alone():
    prediction, target = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(2))
    voxelwise_consistency(prediction, target).sum().backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None


def test_no_feature_at_all_is_no_fault():
    prediction = torch.zeros(1, 2, 3, requires_grad=True)
    loss = voxelwise_consistency(prediction, torch.ones(1, 2, 3))
    loss.sum().backward()
    assert float(loss.detach()) == 2
    assert prediction.grad.isfinite().all()


def test_half_precision_is_compared_in_single():
    rng = generator(0)
    prediction, target = (torch.randn(1, 64, 5, generator=rng) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = voxelwise_consistency(1e4 * prediction, 1e4 * target)
    torch.testing.assert_close(found, voxelwise_consistency(prediction, target))


def test_spread_tells_collapse():
    same = torch.ones(2, 3, 4, 4)
    assert float(spread(same)) == 0
    rng = generator(0)
    anywhere = torch.randn(2, 64, 20, 20, generator=rng)
    assert float(spread(anywhere)) == pytest.approx(1, abs=0.01)
