"""Errors at masked voxels alone, against the published values; distances of histograms, against another computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from unlabeled.losses.restoration import histogram_distance, masked_error


@pytest.mark.parametrize(("power", "name"), [(2, "mse"), (1, "mae")])
def test_published_losses(golden, power, name) -> None:
    known = np.load(golden / "voidseg" / "n2v_loss.npz")
    guess, target, mask = (
        torch.from_numpy(part).moveaxis(-1, 1)
        for part in (
            known["prediction"],
            known["target_and_mask"][..., :1],
            known["target_and_mask"][..., 1:],
        )
    )
    assert masked_error(guess, target, mask > 0, power).item() == pytest.approx(
        float(known[name]), abs=1e-5
    )


@given(seed=st.integers(0, 10_000), power=st.sampled_from([1, 2]))
def test_what_is_restored_elsewhere_does_not_count(seed, power) -> None:
    rng = torch.Generator().manual_seed(seed)
    truth, guess, other = torch.randn(3, 2, 1, 5, 4, generator=rng)
    mask = torch.rand(truth.shape, generator=rng) < 0.3
    mask[0, 0, 0, 0] = True
    guess.requires_grad_(True)
    loss = masked_error(guess, truth, mask, power)
    elsewhere = torch.where(mask, guess, 100 * other)
    assert torch.equal(loss, masked_error(elsewhere, truth, mask, power))
    loss.backward()
    assert (guess.grad[~mask] == 0).all()
    plain = (guess - truth)[mask].abs() ** power
    assert loss.item() == pytest.approx(plain.mean().item(), rel=1e-5)


def test_no_masked_voxel_costs_nothing() -> None:
    image = torch.zeros(1, 1, 2, 2)
    assert masked_error(image, image + 1, torch.zeros_like(image, dtype=torch.bool)) == 0


@given(seed=st.integers(0, 10_000))
def test_the_distance_of_histograms_is_the_wasserstein_distance_wherever_values_lie(seed) -> None:
    rng = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, 2, 3, 4, 2, 3, generator=rng)
    distance = histogram_distance(one, other)
    each = [
        wasserstein_distance(first.flatten(), second.flatten())
        for first, second in zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)
    ]
    assert distance.item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    shuffled = one.flatten(2)[..., torch.randperm(24, generator=rng)].view_as(one)
    assert histogram_distance(shuffled, one) == 0
    assert torch.isclose(histogram_distance(one + 2, one), torch.tensor(2.0))
