"""Tiles of many images change places at once, and come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.transforms.jigsaw import Jigsaw, draw_orders, least_distance
from unlabeled.transforms.puzzles import assemble, choose_permutations, cut


@given(
    seed=st.integers(0, 2**31),
    grid=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    edge=st.integers(1, 4),
)
def test_tiles_come_back_bit_for_bit_and_none_is_lost(seed, grid, edge):
    rng = torch.Generator().manual_seed(seed)
    jigsaw = Jigsaw(tuple(grid))
    images = torch.randn(3, 2, *(many * edge for many in grid), generator=rng)
    orders = torch.stack([torch.randperm(jigsaw.pieces, generator=rng) for _ in range(3)])
    puzzles = jigsaw(images, orders)
    assert puzzles.shape == images.shape
    assert torch.equal(jigsaw.undo(puzzles, orders), images)
    assert torch.equal(puzzles.flatten(2).sort().values, images.flatten(2).sort().values)


@pytest.mark.parametrize("grid", [(3, 3), (2, 3), (2, 1, 3)])
def test_every_image_is_laid_as_tile_by_tile(grid):
    rng = torch.Generator().manual_seed(0)
    jigsaw, size = Jigsaw(grid), (4, 5, 2)[: len(grid)]
    images = torch.randn(4, 3, *(m * e for m, e in zip(grid, size, strict=True)), generator=rng)
    orders = torch.stack([torch.randperm(jigsaw.pieces, generator=rng) for _ in range(4)])
    starts = [
        [at * edge for at, edge in zip(cell, size, strict=True)] for cell in np.ndindex(*grid)
    ]
    wanted = [
        assemble(cut(image, starts, size)[order], grid)
        for image, order in zip(images, orders, strict=True)
    ]
    assert torch.equal(jigsaw(images, orders), torch.stack(wanted))


def test_images_that_tiles_do_not_fill_are_refused():
    Jigsaw((3, 2)).check((9, 4))
    with pytest.raises(OptionError, match="10 x 4 voxels") as fault:
        Jigsaw((3, 2)).check((10, 4))
    assert "--patch-size 9 4" in fault.value.remedy


def test_the_most_alike_of_100_orders_of_nine_tiles_differ_in_six_places():
    """By the largest mean distance, two of them differ by one exchange."""
    assert least_distance(choose_permutations(9, 100)) == 6
    assert least_distance(choose_permutations(9, 100, "max-mean")) == 2


def test_no_order_is_drawn_twice_for_an_image_and_all_are_as_likely():
    torch.manual_seed(0)
    drawn = draw_orders(6, 2000, 3)
    assert drawn.shape == (3, 2000)
    assert all(len(set(column.tolist())) == 3 for column in drawn.T)
    shares = torch.bincount(drawn.flatten(), minlength=6) / 6000
    assert (shares - 1 / 6).abs().max() < 0.02
    with pytest.raises(ValueError, match="7 different"):
        draw_orders(6, 1, 7)
