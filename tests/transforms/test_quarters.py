"""Quarter turns are exact, all different, undone by their numbers, and known by nothing but what an image shows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.transforms.quarters import QuarterTurns, giveaway, inscribed

PLANE = {dims: QuarterTurns(dims) for dims in (2, 3)}
ALL = QuarterTurns.about_all_axes(3)


def test_turns_are_counter_clockwise_in_rows_and_columns():
    square = torch.tensor([[1, 2], [3, 4]])
    turned = [PLANE[2](square, turn).tolist() for turn in range(4)]
    assert turned == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


@pytest.mark.parametrize(("turns", "count"), [(PLANE[2], 4), (PLANE[3], 4), (ALL, 10)])
def test_all_turns_of_an_asymmetric_cube_differ_and_the_first_is_none(turns, count):
    image = torch.arange(3.0**turns.dims).view(1, 1, *[3] * turns.dims)
    copies, numbers = turns.all(image)
    assert turns.count == count == len(copies)
    assert numbers.tolist() == list(range(count))
    assert torch.equal(copies[:1], image)
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == count


@given(seed=st.integers(0, 2**31), edge=st.integers(1, 5), depth=st.integers(1, 5))
def test_turning_back_gives_the_original_bit_for_bit(seed, edge, depth):
    rng = torch.Generator().manual_seed(seed)
    for turns, space in ((PLANE[2], (edge, edge)), (PLANE[3], (edge, edge, depth)), (ALL, (edge,) * 3)):  # fmt: skip
        images = torch.randn(2, 2, *space, generator=rng)
        copies, numbers = turns.all(images)
        assert numbers.tolist() == [*range(turns.count)] * 2
        for place, (copy, number) in enumerate(zip(copies, numbers.tolist(), strict=True)):
            assert torch.equal(turns.undo(copy, number), images[place // turns.count])
            assert torch.equal(copy.flatten().sort().values, images[place // turns.count].flatten().sort().values)  # fmt: skip


def test_turns_in_the_plane_of_volumes_keep_every_slice():
    volume = torch.rand(1, 1, 4, 4, 3)
    copies, _ = PLANE[3].all(volume)
    for level in range(3):
        flat, _ = PLANE[2].all(volume[..., level])
        assert torch.equal(copies[..., level], flat)


def test_half_turns_about_unlike_axes_are_told_apart():
    """Turns by 180 degrees about x, y and z are three classes."""
    cube = torch.rand(1, 3, 3, 3)
    halves = [ALL(cube, turn) for turn in (2, 5, 8)]
    assert not any(torch.equal(halves[a], halves[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("edge", [5, 6, 9])
def test_what_is_inscribed_looks_the_same_in_all_turns(edge):
    for turns, space in ((PLANE[2], (edge, edge)), (PLANE[3], (edge, edge, 4)), (ALL, (edge,) * 3)):
        shown = inscribed(space, turns.axes)
        assert all(torch.equal(turns(shown, turn), shown) for turn in range(turns.count))
        assert not shown[0, 0].any()
        assert shown[edge // 2, edge // 2].any()
    assert inscribed((6, 6, 4), (0, 1))[:, :, 0].equal(inscribed((6, 6), (0, 1)))


def test_patches_that_do_not_fit_their_own_place():
    PLANE[3].check((16, 16, 8))
    with pytest.raises(OptionError, match="16 16 8") as fault:
        ALL.check((16, 16, 8))
    assert "--patch-size 8 8 8" in fault.value.remedy
    with pytest.raises(OptionError) as fault:
        PLANE[3].check((16, 12, 8))
    assert "--patch-size 12 12 8" in fault.value.remedy


@pytest.mark.parametrize(
    ("turns", "space", "spacing", "fact"),
    [
        (PLANE[2], (20, 20), None, None),
        (PLANE[2], (15, 20), None, "padding"),
        (PLANE[2], (20, 20), (1.0, 1.4), None),
        (PLANE[2], (20, 20, 5), (1.0, 1.0, 5.0), None),
        (PLANE[2], (20, 20, 5), (5.0, 1.0, 1.0), "5 x 1 x 1 mm"),
        (PLANE[3], (20, 20, 5), (1.0, 1.0, 5.0), None),
        (ALL, (20, 20, 20), (1.0, 1.0, 1.2), None),
        (ALL, (20, 20, 20), (1.0, 1.0, 3.0), "1 x 1 x 3 mm"),
        (ALL, (20, 20, 12), None, "padding"),
    ],
)
def test_padding_and_unequal_voxels_give_a_turn_away(turns, space, spacing, fact):
    fault = giveaway(turns, (16, 16, 16), space, spacing)
    assert (fault is None) == (fact is None)
    if fault is not None:
        assert fact in fault.fact
        assert "--patch-size" in fault.remedy or "--spacing" in fault.remedy


def test_a_remedy_that_is_typed_helps():
    fault = giveaway(PLANE[3], (16, 16, 16), (12, 20, 5), None)
    assert fault is not None
    assert "--patch-size 12 12 16" in fault.remedy
    assert giveaway(PLANE[3], (12, 12, 16), (12, 20, 5), None) is None
