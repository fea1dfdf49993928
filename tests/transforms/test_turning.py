"""The eight ways of a square, against the published augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabeled.rng import generator
from unlabeled.transforms.turning import SquareTurn, turn_square


def test_the_eight_ways_are_the_published_ones_in_their_order(golden) -> None:
    known = np.load(golden / "voidseg" / "augment8_and_fraction.npz")
    images = torch.from_numpy(known["images"])
    ours = torch.stack([turn_square(image[None], way)[0] for way in range(8) for image in images])
    assert (ours.numpy() == known["augmented"]).all()


def test_every_way_is_drawn_as_often() -> None:
    square = torch.arange(9.0).view(1, 3, 3)
    ways = [turn_square(square, way) for way in range(8)]
    drawn = torch.zeros(8)
    for seed in range(800):
        turned = SquareTurn()(square, generator(seed))
        (which,) = [way for way, each in enumerate(ways) if torch.equal(turned, each)]
        drawn[which] += 1
    assert (drawn - 100).abs().max() < 4 * 87.5**0.5


@pytest.mark.parametrize("space", [(4, 6), (4, 6, 3), (5, 5, 2)])
def test_shape_and_values_stay(space: tuple[int, ...]) -> None:
    image = torch.rand(2, *space)
    seen = set()
    for seed in range(60):
        turned = SquareTurn()(image, generator(seed))
        assert turned.shape == image.shape
        assert torch.equal(turned.flatten().sort().values, image.flatten().sort().values)
        if len(space) == 3:  # slices keep their order
            assert torch.equal(
                turned[..., 0].flatten().sort().values, image[..., 0].flatten().sort().values
            )
        seen.add(tuple(turned.flatten().tolist()))
    assert len(seen) == (8 if space[0] == space[1] else 4)
