"""Repeated flips against the published outcome frequencies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.spatial import EdgeShift, RepeatedFlip, shift_edges


def outcomes(flip: RepeatedFlip, draws: int) -> Counter:
    """Count which axes of space end up flipped."""
    image = torch.arange(8).reshape(1, 2, 2, 2)
    first = {tuple(torch.flip(image, axes).flatten().tolist()): axes for axes in subsets()}
    rng = generator(0, "flips")
    return Counter(first[tuple(flip(image, rng).flatten().tolist())] for _ in range(draws))


def subsets() -> list[tuple[int, ...]]:
    return [tuple(a for a in (1, 2, 3) if mask >> (a - 1) & 1) for mask in range(8)]


def test_published_frequencies(golden):
    """A draw of the channel axis flips nothing, depth is never drawn."""
    expected = np.load(golden / "models-genesis" / "statistics.npz")["flip_outcome_probability"]
    draws = 6000
    seen = outcomes(RepeatedFlip(0.4, axes=(None, 0, 1)), draws)
    assert sum(seen.values()) == seen[()] + seen[1,] + seen[2,] + seen[1, 2]
    for axes, p in zip([(), (1,), (2,), (1, 2)], expected, strict=True):
        assert abs(seen[axes] / draws - p) < 4 * np.sqrt(p * (1 - p) / draws), axes


def test_every_axis_by_default():
    seen = outcomes(RepeatedFlip(0.4), 3000)
    single = [seen[1,], seen[2,], seen[3,]]
    assert min(single) > 0.8 * max(single) > 0
    assert seen[1, 2, 3] > 0


def test_probability_zero_is_the_identity():
    image = torch.rand(1, 3, 4)
    same = RepeatedFlip(0)(image, generator(0))
    assert torch.equal(same, image)
    assert same.data_ptr() != image.data_ptr()


def test_at_most_so_many_flips():
    rng = generator(0)
    assert {len(RepeatedFlip(1.0).draw(3, rng)) for _ in range(20)} == {3}
    assert {len(RepeatedFlip(1.0, most=1).draw(2, rng)) for _ in range(20)} == {1}


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 5)])
def test_shifts_equal_the_published_ones(golden, shift):
    arrays = np.load(golden / "fmri-reconstruction" / "rand_shift.npz")
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)
    expected = arrays[f"shift_{shift[0]}_{shift[1]}"]
    np.testing.assert_array_equal(shift_edges(image, shift).permute(1, 2, 0), expected)


@given(seed=st.integers(0, 2**31), most=st.integers(0, 7))
def test_shifts_stay_in_range_and_bring_in_nothing_new(seed, most):
    image = torch.arange(60).reshape(1, 6, 10)
    drawn = EdgeShift(most).draw(2, generator(seed))
    assert max(map(abs, drawn)) <= most
    moved = EdgeShift(most)(image, generator(seed))
    assert torch.equal(moved, shift_edges(image, drawn))
    assert set(moved.flatten().tolist()) <= set(image.flatten().tolist())
    if most == 0:
        assert torch.equal(moved, image)


def test_every_shift_is_as_likely():
    rng = generator(0, "shifts")
    seen = Counter(EdgeShift(2).draw(1, rng)[0] for _ in range(5000))
    assert set(seen) == {-2, -1, 0, 1, 2}
    assert min(seen.values()) > 0.85 * 1000
