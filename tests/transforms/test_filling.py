"""Taking objects away: ranks, distances, what fills a gap, and its noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.transforms.filling import fill, noise_level, take_away, top_share, widen


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(edge: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(*[torch.linspace(0, 1, edge)] * 2, indexing="ij")
    return (0.3 * rows + 0.4 * columns + 0.1)[None]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), factor=st.floats(1, 4))
def test_the_likeliest_are_taken_and_the_label_among_them(seed, factor):
    likely = torch.rand(7, 9, generator=rng(seed))
    coarse = torch.rand(7, 9, generator=rng(seed + 1)) < 0.2
    taken = top_share(likely, coarse, factor)
    assert int(taken.sum()) == min(63, math.ceil(factor * int(coarse.sum()) - 1e-9))
    assert (taken | ~coarse).all()
    besides, left = likely[taken & ~coarse], likely[~taken]
    if len(besides) and len(left):
        assert besides.min() >= left.max()


def test_whole_numbers_are_not_rounded_up():
    coarse = torch.zeros(10, 10, dtype=torch.bool)
    coarse[0] = True
    assert int(top_share(torch.rand(10, 10), coarse, 1.1).sum()) == 11


def test_widening_is_by_distance():
    region = torch.zeros(9, 9, dtype=torch.bool)
    region[4, 4] = True
    rows, columns = torch.meshgrid(*[torch.arange(9)] * 2, indexing="ij")
    away = ((rows - 4) ** 2 + (columns - 4) ** 2).sqrt()
    for by in (0, 1, 2.0, 2.5):
        assert torch.equal(widen(region, by), away <= by)
    assert not widen(torch.zeros(4, 4, dtype=torch.bool), 3).any()


@pytest.mark.parametrize("shape", [(64, 64), (37, 53)])
def test_a_gap_takes_what_surrounds_it(shape):
    image = ramp(64)[:, : shape[0], : shape[1]].expand(2, -1, -1).clone()
    hidden = torch.zeros(shape, dtype=torch.bool)
    hidden[10:24, 12:26] = True
    spoilt = torch.where(hidden, 5.0, image)
    filled = fill(spoilt, hidden)
    assert torch.equal(filled[:, ~hidden], image[:, ~hidden])
    assert (filled - image).abs().max() < 0.07
    assert (filled - image).abs()[:, hidden].mean() < 0.025
    flat = fill(torch.where(hidden, 9.0, torch.full_like(image, 0.25)), hidden)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25))


def test_what_was_hidden_does_not_matter_and_something_must_be_known():
    hidden = torch.rand(40, 40, generator=rng()) < 0.6
    image = torch.rand(1, 40, 40, generator=rng(1))
    first, second = (fill(torch.where(hidden, value, image), hidden) for value in (0.0, 7.0))
    assert torch.equal(first, second)
    assert first.min() >= image[:, ~hidden].min() - 1e-6
    assert first.max() <= image[:, ~hidden].max() + 1e-6
    with pytest.raises(ValueError, match="everything"):
        fill(image, torch.ones(40, 40, dtype=torch.bool))


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.1])
def test_noise_is_measured_where_it_is_known(sigma):
    known = torch.ones(96, 96, dtype=torch.bool)
    known[:, 40:70] = False
    noisy = ramp(96) + sigma * torch.randn(1, 96, 96, generator=rng())
    noisy[:, :, 40:70] = 3 * torch.randn(1, 96, 30, generator=rng(1))
    assert float(noise_level(noisy, known)) == pytest.approx(sigma, rel=0.06, abs=1e-5)
    assert noise_level(noisy, ~known | known & False)[0] > 1
    assert float(noise_level(noisy, torch.zeros(96, 96, dtype=torch.bool))) == 0


def test_a_filled_gap_is_as_noisy_as_the_rest():
    noisy = ramp(96) + 0.05 * torch.randn(1, 96, 96, generator=rng())
    hidden = torch.zeros(96, 96, dtype=torch.bool)
    hidden[20:60, 20:60] = True
    filled = take_away(torch.where(hidden, 1.0, noisy), hidden, rng(2))
    assert torch.equal(filled[:, ~hidden], noisy[:, ~hidden])
    inner = torch.zeros_like(hidden)
    inner[22:58, 22:58] = True
    assert float(noise_level(filled, inner)) == pytest.approx(0.05, rel=0.15)
    again = take_away(torch.where(hidden, 1.0, noisy), hidden, rng(2))
    assert torch.equal(filled, again)
    assert not torch.equal(filled, take_away(noisy, hidden, rng(3)))
