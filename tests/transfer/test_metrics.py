"""Measures against brute force, scikit-learn where it is installed, and what must hold of any measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from unlabeled.transfer import metrics


def ball(space: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grids = np.meshgrid(*[np.arange(n) for n in space], indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour outside (the array's outside counts), as positions."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(mask.ndim):
        for shift in (-1, 1):
            inner &= np.roll(padded, shift, axis)
    edge = padded & ~inner
    return np.argwhere(edge) - 1


def brute(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> tuple:
    one, two = surface(a) * np.array(spacing), surface(b) * np.array(spacing)
    far = np.linalg.norm(one[:, None] - two[None], axis=-1)
    there, back = far.min(1), far.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    met = (there <= tolerance).sum() + (back <= tolerance).sum()
    return hd95, met / (len(there) + len(back))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.5, 3.0)])
def test_distances_equal_brute_force_over_all_surface_voxels(spacing: tuple[float, ...]) -> None:
    a, b = ball((14, 15, 16), (6, 6, 6), 4.2), ball((14, 15, 16), (7.5, 6, 9), 3.4)
    found = metrics.overlap(a, b, spacing=spacing, tolerance=1.0)
    hd95, nsd = brute(a, b, spacing, 1.0)
    assert found.hd95 == pytest.approx(hd95, abs=1e-4)
    assert found.nsd == pytest.approx(nsd, abs=1e-4)
    assert found.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_mask_that_touches_the_border_is_measured_like_one_that_does_not() -> None:
    a, b = ball((12, 12), (0, 5), 3), ball((12, 12), (1, 6), 3)
    inside = [np.pad(mask, 4) for mask in (a, b)]
    assert metrics.overlap(*inside, spacing=(1.0, 2.0)).dice == metrics.overlap(a, b).dice
    assert metrics.overlap(a, b, spacing=(1.0, 2.0)).hd95 == pytest.approx(
        brute(a, b, (1.0, 2.0), 1.0)[0], abs=1e-4
    )


@given(seed=st.integers(0, 2**31), dims=st.sampled_from([2, 3]))
@settings(max_examples=15, deadline=None)
def test_symmetric_and_perfect_against_itself(seed: int, dims: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, *[7] * dims)) > 0.7
    assume(a.any() and b.any())
    one, other = metrics.overlap(a, b), metrics.overlap(b, a)
    assert (one.dice, one.hd95) == (other.dice, pytest.approx(other.hd95))
    assert one.nsd == pytest.approx(other.nsd)
    assert metrics.overlap(a, a) == metrics.Overlap(1.0, 0.0, 1.0)
    assert 0 <= one.dice <= 1


def test_empty_masks() -> None:
    nothing, some = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert all(math.isnan(v) for v in (metrics.overlap(nothing, nothing).dice,))
    for pair in ((nothing, some), (some, nothing)):
        assert metrics.overlap(*pair, spacing=(2.0, 2.0)) == metrics.Overlap(0.0, 10.0, 0.0)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(4, 40),
    ties=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_auc_equals_mann_whitney(seed: int, count: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, count) if ties else rng.random(count)
    truth = rng.integers(0, 2, count)
    assume(0 < truth.sum() < count)
    u = mannwhitneyu(scores[truth == 1], scores[truth == 0]).statistic
    assert metrics.roc_auc(scores, truth) == pytest.approx(u / (truth.sum() * (1 - truth).sum()))
    assert metrics.roc_auc(-scores, truth) == pytest.approx(1 - metrics.roc_auc(scores, truth))


def test_auc_of_several_classes_and_of_missing_ones() -> None:
    scores = np.eye(3)[[0, 1, 2, 1]]
    truth = np.array([0, 1, 2, 1])
    assert metrics.roc_auc(scores, truth) == 1.0
    assert math.isnan(metrics.roc_auc(np.array([0.1, 0.2]), np.array([1, 1])))
    assert metrics.roc_auc(scores[[0, 1, 3]], truth[[0, 1, 3]]) == 1.0


def test_balanced_accuracy_does_not_reward_the_larger_class() -> None:
    scores = np.tile([1.0, 0.0], (10, 1))
    truth = np.array([0] * 8 + [1] * 2)
    assert metrics.accuracy(scores, truth) == 0.8
    assert metrics.balanced_accuracy(scores, truth) == 0.5


def test_the_interval_holds_the_mean_narrows_with_subjects_and_is_the_same_again() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=10), rng.normal(size=400)
    small = metrics.mean_interval(few, [str(i) for i in range(10)])
    large = metrics.mean_interval(many, [str(i) for i in range(400)])
    assert small.low < small.value < small.high
    assert large.high - large.low < small.high - small.low
    width = 2 * 1.96 * many.std() / 20
    assert large.high - large.low == pytest.approx(width, rel=0.15)
    assert metrics.mean_interval(few, [str(i) for i in range(10)]) == small


def test_scans_of_one_subject_are_drawn_together() -> None:
    values = [0.0, 0.0, 1.0, 1.0] * 10
    apart = metrics.mean_interval(values, [str(i) for i in range(40)])
    together = metrics.mean_interval(values, ["a", "a", "b", "b"] * 10)
    assert (together.low, together.high) == (0.0, 1.0)
    assert apart.low > 0.3
