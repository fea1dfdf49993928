"""Bezier curves against the published ones and against the plain NumPy version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.intensity import (
    BezierCurve,
    BezierIntensity,
    GainOffset,
    RandomGamma,
    raise_to,
)

unit = st.floats(0, 1, width=32)
points = st.tuples(unit, unit)


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("inverted", [False, True])
def test_published_curves(golden, case, inverted):
    arrays = np.load(golden / "models-genesis" / "bezier_nonlinear.npz")
    _, first, second, _ = arrays["control_points"][case].tolist()
    mapped = BezierCurve(tuple(first), tuple(second), inverted)(torch.from_numpy(arrays["x"]))
    expected = arrays["y_inverted" if inverted else "y_increasing"][case]
    np.testing.assert_allclose(mapped.numpy(), expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(first=points, second=points, inverted=st.booleans(), seed=st.integers(0, 1000))
def test_equals_the_plain_version(plain, first, second, inverted, seed):
    """The plain curve of 100000 points is itself 1.1e-5 off where the curve is steep without bound."""
    draws = np.random.default_rng(seed)
    image = np.concatenate([draws.random(500), draws.random(200) ** 8, [0, 1, -0.5, 1.5]])
    image = image.astype(np.float32)
    mapped = BezierCurve(first, second, inverted)(torch.from_numpy(image)).numpy()
    expected = plain.plain_intensity(image, first, second, inverted)
    np.testing.assert_allclose(mapped, expected, rtol=0, atol=1.5e-5)


@settings(max_examples=25, deadline=None)
@given(first=points, second=points)
def test_inverted_curves_are_monotone_functions(first, second):
    """Both coordinates rise along any curve with inner points in the unit square, so pairing them is exact."""
    ramp = torch.linspace(0, 1, 3001)
    for inverted in (False, True):
        mapped = BezierCurve(first, second, inverted)(ramp)
        steps = mapped.diff()
        assert (steps <= 2e-7).all() if inverted else (steps >= -2e-7).all()
        assert mapped[0] == float(inverted)
        assert mapped[-1] == float(not inverted)


def test_the_inverted_curve_runs_through_reversed_ordinates():
    """Upside down, it is the curve with the inner ordinates exchanged and mirrored."""
    ramp = torch.linspace(0, 1, 1001)
    inverted = BezierCurve((0.1, 0.7), (0.4, 0.9), inverted=True)
    upright = BezierCurve((0.1, 1 - 0.9), (0.4, 1 - 0.7))
    torch.testing.assert_close(inverted(ramp), 1 - upright(ramp), rtol=0, atol=1e-6)


def test_identity_and_clamping():
    identity = BezierCurve((0.5, 0.5), (0.5, 0.5))
    ramp = torch.linspace(0, 1, 999)
    torch.testing.assert_close(identity(ramp), ramp, rtol=0, atol=1e-6)
    assert identity(torch.tensor([-3.0, 9.0])).tolist() == [0.0, 1.0]


def test_a_missing_intensity_stays_missing():
    assert BezierCurve((0.2, 0.7), (0.4, 0.1))(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_and_shape_stay(dtype):
    image = torch.rand(2, 5, 6, 7).to(dtype)
    before = image.clone()
    mapped = BezierIntensity()(image, generator(0))
    assert mapped.dtype == dtype
    assert mapped.shape == image.shape
    assert torch.equal(image, before)


def test_views_that_are_not_contiguous():
    image = torch.rand(1, 8, 8, 8)
    curve = BezierCurve((0.2, 0.7), (0.4, 0.1))
    turned = image.transpose(1, 3)
    assert torch.equal(curve(turned), curve(turned.contiguous()))


def test_probabilities():
    image = torch.rand(1, 4, 4)
    rng = generator(0, "probabilities")
    never, always = BezierIntensity(p=0), BezierIntensity(p=1)
    assert all(torch.equal(never(image, rng), image) for _ in range(20))
    assert never(image, rng).data_ptr() != image.data_ptr()
    assert not any(torch.equal(always(image, rng), image) for _ in range(20))
    assert {always.draw(rng).inverted for _ in range(50)} == {True, False}
    assert not any(BezierIntensity(p_invert=0).draw(rng).inverted for _ in range(50))
    mapped = sum(not torch.equal(BezierIntensity(p=0.9)(image, rng), image) for _ in range(400))
    assert 330 < mapped < 390


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="int64"):
        BezierCurve((0.2, 0.7), (0.4, 0.1))(torch.arange(5))


def test_powers_equal_the_published_ones(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "transforms.npz")
    image = torch.from_numpy(arrays["image"])
    for power in ("0.50", "1.00", "1.49"):
        mapped = raise_to(image, float(power)).numpy()
        assert np.abs(mapped - arrays[f"gamma_{power}"]).max() < 0.01


@given(seed=st.integers(0, 2**31), low=st.floats(-5, 5), spread=st.floats(0, 100))
def test_a_power_keeps_range_and_order(seed, low, spread):
    rng = torch.Generator().manual_seed(seed)
    image = low + spread * torch.rand(1, 8, 8, generator=rng)
    mapped = RandomGamma()(image, rng)
    tight = 1e-3 * (1 + spread)
    assert image.min() - tight <= mapped.min() <= mapped.max() <= image.max() + tight
    order = image.flatten().argsort()
    assert (mapped.flatten()[order].diff() >= -tight).all()
    assert torch.allclose(RandomGamma(1, 1)(image, rng), image, atol=1e-4 * (1 + spread))


def test_powers_are_drawn_from_their_whole_range():
    drawn = [RandomGamma().draw(torch.Generator().manual_seed(n)) for n in range(300)]
    assert 0.5 <= min(drawn) < 0.52
    assert 1.48 < max(drawn) <= 1.5


def test_gain_and_offset_are_drawn_within_their_ranges():
    image = torch.tensor([[0.0, 1.0]])
    changed = torch.stack([GainOffset((0.8, 1.1), 0.05)(image, generator(n)) for n in range(200)])
    offset, gain = changed[:, 0, 0], changed[:, 0, 1] - changed[:, 0, 0]
    for values, low, high in ((offset, -0.05, 0.05), (gain, 0.8, 1.1)):
        reach = high - low
        assert low <= values.min() < low + 0.1 * reach
        assert high >= values.max() > high - 0.1 * reach
    assert torch.equal(GainOffset((1, 1), 0)(image, generator(0)), image)


def test_powers_by_chance():
    """Where a power is certain, no chance is drawn: streams of earlier runs stay as they were."""
    image = torch.linspace(0, 1, 9)[None]
    kept = [torch.equal(RandomGamma(0.7, 1.5, 0.5)(image, generator(n)), image) for n in range(400)]
    assert 0.42 < sum(kept) / 400 < 0.58
    power = RandomGamma(0.7, 1.5).draw(generator(1))
    torch.testing.assert_close(RandomGamma(0.7, 1.5)(image, generator(1)), raise_to(image, power))
