"""Repeated flips against the published outcome frequencies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from unlabeled.rng import generator
from unlabeled.transforms.spatial import RepeatedFlip


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
