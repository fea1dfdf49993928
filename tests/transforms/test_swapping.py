"""Swapped patches: nothing is lost, both places change, and every place may be one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.masking import Box
from unlabeled.transforms.shuffling import PatchSwap, SwapPlan

spaces = st.one_of(
    st.tuples(*[st.integers(8, 70)] * 2),
    st.tuples(*[st.integers(4, 24)] * 3),
)


def numbered(channels: int, *space: int) -> torch.Tensor:
    """An image whose values all differ, each channel's own."""
    return torch.arange(channels * int(np.prod(space))).reshape(channels, *space)


def square(row: int, column: int) -> Box:
    return Box((row, column), (2, 2))


def test_worked_example_of_one_swap_and_of_two():
    image = numbered(1, 4, 4)
    once = SwapPlan(((square(0, 0), square(2, 2)),))(image)
    assert once[0].tolist() == [[10, 11, 2, 3], [14, 15, 6, 7], [8, 9, 0, 1], [12, 13, 4, 5]]
    assert int((once - image).square().sum()) == 800
    twice = SwapPlan(((square(0, 0), square(2, 2)), (square(0, 1), square(2, 1))))(image)
    assert twice[0].tolist() == [[10, 9, 0, 3], [14, 13, 4, 7], [8, 11, 2, 1], [12, 15, 6, 5]]
    assert float((twice - image).double().square().mean()) == 42.0
    assert torch.equal(image, numbered(1, 4, 4))


@given(space=spaces, swaps=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_no_value_is_lost_and_undoing_puts_all_back(space, swaps, seed):
    image = numbered(2, *space)
    plan = PatchSwap(swaps).draw(space, generator(seed))
    swapped = plan(image)
    assert torch.equal(swapped.flatten(1).sort(1).values, image.flatten(1).sort(1).values)
    assert torch.equal(plan.undoing(swapped), image)


def test_the_two_patches_of_a_swap_never_overlap_in_10000_draws():
    for space in ((20, 12), (12, 8, 6)):
        plan = PatchSwap(5_000, (0.1, 0.5)).draw(space, generator(1))
        assert len(plan.swaps) > 4_000
        for first, second in plan.swaps:
            assert first.size == second.size
            seen = torch.zeros(1, *space)
            seen[first.region] += 1
            seen[second.region] += 1
            assert seen.max() == 1


@pytest.mark.parametrize("space", [(12, 9), (8, 7, 6)])
def test_patches_reach_every_voxel_evenly(space):
    """Both ends of every axis are possible starts, and no start is preferred for the first patch."""
    edges = (3, 2, 2)[: len(space)]
    plan = PatchSwap(6_000, edges=edges).draw(space, generator(2))
    covered = torch.zeros(1, *space)
    for pair in plan.swaps:
        for box in pair:
            covered[box.region] += 1
    assert covered.min() > 0
    for axis, (extent, edge) in enumerate(zip(space, edges, strict=True)):
        for place in (0, 1):
            counts = np.bincount([pair[place].start[axis] for pair in plan.swaps])
            assert len(counts) == extent - edge + 1
            if place == 0:
                expected = len(plan.swaps) / len(counts)
                assert (abs(counts - expected) < 5 * expected**0.5 + 0.05 * expected).all()


def test_edges_are_even_between_both_shares():
    plan = PatchSwap(4_000).draw((64, 40), generator(3))
    heights, widths = np.array([first.size for first, _ in plan.swaps]).T
    assert set(heights) == {4, 5, 6, 7, 8}
    assert set(widths) == {2, 3, 4, 5}
    assert np.bincount(heights)[4:].min() > 680


def test_a_quarter_of_the_pixels_changes_at_the_longest_edge():
    """Twenty patches of a sixty-fourth of the image, at places of their own, would cover 1 - (63 / 64) ** 20 = 0.27."""
    image = numbered(1, 64, 64)
    swap = PatchSwap(edges=(8, 8))
    changed = [float((swap(image, generator(seed)) != image).float().mean()) for seed in range(200)]
    assert abs(np.mean(changed) - 0.267) < 0.008


@pytest.mark.parametrize("space", [(16, 12), (16, 12, 8)])
def test_all_channels_move_alike_and_both_ways(space):
    image = numbered(1, *space).repeat(3, *[1] * len(space)) + torch.tensor([0, 1000, 5000]).view(
        3, *[1] * len(space)
    )
    swapped = PatchSwap(1)(image, generator(0))
    assert torch.equal(swapped[0], swapped[1] - 1000)
    assert torch.equal(swapped[0], swapped[2] - 5000)
    sources = swapped[0].flatten()
    moved = (sources != image[0].flatten()).nonzero().flatten()
    assert len(moved) > 0
    assert torch.equal(sources[sources[moved]], moved)


def test_a_swap_without_a_free_place_is_left_out():
    image = numbered(1, 4, 4)
    assert PatchSwap(3, edges=(3, 3)).draw((4, 4), generator(0)).swaps == ()
    assert torch.equal(PatchSwap(3, edges=(3, 3))(image, generator(0)), image)


def test_patches_longer_than_the_image_are_refused():
    for edges in ((5, 2), (2, 2, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            PatchSwap(edges=edges)(numbered(1, 4, 4), generator(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bool])
def test_dtype_and_input_stay(dtype):
    image = (torch.rand(2, 16, 24) * 3).to(dtype)
    before = image.clone()
    swapped = PatchSwap()(image, generator(0))
    assert swapped.dtype == dtype
    assert torch.equal(image, before)
    assert swapped.data_ptr() != image.data_ptr()
