"""Losses of registration: published arrays, plain loops, and what they must not see."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.losses.registration import correlation_loss, self_similarity, self_similarity_loss

both = pytest.mark.parametrize("space", [(9, 8), (7, 6, 8)])
seeds = st.integers(0, 2**31)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_correlation_is_the_published_one(golden) -> None:
    arrays = np.load(golden / "shape-landmarks" / "losses.npz")
    first, second = (torch.from_numpy(arrays[name])[:, :1] for name in "xy")
    assert float(correlation_loss(first, second)) == pytest.approx(
        float(arrays["ncc_channel0"]), abs=1e-4
    )


def test_self_similarity_is_the_published_one(golden) -> None:
    """The order of the twelve channels is free: each published one is found, once."""
    arrays = np.load(golden / "shape-landmarks" / "mind3d.npz")
    places = []
    for number in "12":
        ours = self_similarity(torch.from_numpy(arrays[f"vol{number}"]))[0]
        theirs = torch.from_numpy(arrays[f"mind{number}"])[0]
        gaps = (ours[:, None] - theirs[None]).abs().flatten(2).amax(2)
        assert sorted(gaps.argmin(1).tolist()) == list(range(12))
        assert gaps.amin(1).max() < 1e-4
        places.append(gaps.argmin(1).tolist())
    assert places[0] == places[1]
    volumes = [torch.from_numpy(arrays[name]) for name in ("vol1", "vol2")]
    assert float(self_similarity_loss(*volumes)) == pytest.approx(
        float(arrays["mind_loss"]), abs=1e-5
    )


@both
@given(seed=seeds)
@settings(max_examples=10)
def test_correlation_equals_a_loop_over_neighbourhoods(space: tuple[int, ...], seed: int) -> None:
    first, second = noise(seed, 1, 1, *space), noise(seed + 1, 1, 1, *space)
    padded = [np.pad(each[0, 0].double().numpy(), 1) for each in (first, second)]
    found = []
    for corner in np.ndindex(*space):
        cut = tuple(slice(at, at + 3) for at in corner)
        one, two = (each[cut].ravel() for each in padded)
        one, two = one - one.mean(), two - two.mean()
        found.append((one @ two) ** 2 / ((one @ one) * (two @ two) + 1e-8))
    expected = 1 - np.mean(found) + 1e-5 * float((first - second).square().mean())
    assert float(correlation_loss(first, second)) == pytest.approx(expected, abs=1e-4)


@both
@given(seed=seeds)
@settings(max_examples=10)
def test_contrast_is_not_seen(space: tuple[int, ...], seed: int) -> None:
    first, second = noise(seed, 2, 2, *space), noise(seed + 1, 2, 2, *space)
    plain, changed = (correlation_loss(first, other) for other in (second, 3 - 2 * second))
    inside = self_similarity_loss(first, 3 - 2 * first)
    assert float(inside) < 1e-8
    assert float(self_similarity_loss(first, second)) > 1e-3
    # zeros beyond the image are no part of the contrast, so the border differs
    assert float(changed) == pytest.approx(float(plain), abs=0.3)


@both
def test_self_similarity_equals_a_loop(space: tuple[int, ...]) -> None:
    image = noise(5, *space).double().numpy()
    dims = len(space)
    units = [np.eye(dims, dtype=int)[axis] * sign for axis in range(dims) for sign in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(units, 2) if a @ b == 0]

    def value(voxel) -> float:
        return image[tuple(np.clip(voxel, 0, np.array(space) - 1))]

    differences = np.zeros((len(pairs), *space))
    for index, (one, two) in enumerate(pairs):
        for voxel in np.ndindex(*space):
            gap = value(np.add(voxel, 2 * one)) - value(np.add(voxel, 2 * two))
            differences[(index, *voxel)] = gap**2
    distance = np.zeros_like(differences)
    for index, voxel in itertools.product(range(len(pairs)), np.ndindex(*space)):
        patch = [
            differences[(index, *np.clip(np.add(voxel, step) - 2, 0, np.array(space) - 1))]
            for step in np.ndindex(*(5,) * dims)
        ]
        distance[(index, *voxel)] = np.mean(patch)
    distance -= distance.min(0)
    expected = np.exp(-distance / distance.mean(0))
    found = self_similarity(torch.from_numpy(image)[None, None])[0]
    assert len(found) == len(pairs) == {2: 4, 3: 12}[dims]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@both
def test_flat_images_have_finite_losses_and_gradients(space: tuple[int, ...]) -> None:
    for loss in (correlation_loss, self_similarity_loss):
        flat = torch.full((1, 1, *space), 0.5, requires_grad=True)
        value = loss(flat, noise(0, 1, 1, *space))
        value.backward()
        assert value.isfinite()
        assert flat.grad is not None
        assert flat.grad.isfinite().all()


@both
@given(seed=seeds)
@settings(max_examples=5)
def test_the_order_of_the_batch_does_not_matter(space: tuple[int, ...], seed: int) -> None:
    first, second = noise(seed, 3, 1, *space), noise(seed + 1, 3, 1, *space)
    turned = torch.tensor([2, 0, 1])
    for loss in (correlation_loss, self_similarity_loss):
        torch.testing.assert_close(loss(first, second), loss(first[turned], second[turned]))
        apart = [loss(one[None], two[None]) for one, two in zip(first, second, strict=True)]
        torch.testing.assert_close(loss(first, second), torch.stack(apart).mean())
