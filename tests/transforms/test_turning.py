"""The eight ways of a square, against the published augmentation; layers that turn as those of a Rubik's cube."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.rng import generator
from unlabeled.transforms.turning import (
    FlipTurn,
    LayerPlan,
    LayerTurn,
    LayerTurns,
    SquareTurn,
    turn_square,
)

CUBES = st.tuples(*[st.integers(1, 4)] * 3)  # sub-cubes along each axis


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


def numbered(*space: int) -> torch.Tensor:
    """An image whose voxels all differ."""
    return torch.arange(float(np.prod(space))).view(1, *space)


@given(seed=st.integers(0, 2**31), cubes=CUBES, side=st.integers(1, 3), count=st.integers(0, 9))
def test_layers_are_turned_without_losing_a_voxel_and_can_be_turned_back(seed, cubes, side, count):
    image = numbered(*(many * side for many in cubes))
    before = image.clone()
    plan = LayerTurns(side, count).draw(image.shape[1:], generator(seed))
    turned = plan(image)
    assert len(plan.turns) == count
    assert torch.equal(image, before)
    assert torch.equal(turned.flatten().sort().values, image.flatten())
    assert torch.equal(plan.undoing(turned), image)
    assert plan.undoing.undoing == plan
    for axis, layer, quarters in plan.turns:
        rows, columns = (edge for other, edge in enumerate(cubes) if other != axis)
        assert 0 <= layer < cubes[axis]
        assert quarters in ((1, 2, 3) if rows == columns else (2,))
    if count == 0:
        assert torch.equal(turned, image)


@given(cubes=CUBES, side=st.integers(1, 3), data=st.data())
def test_a_turn_is_that_of_numpy_and_moves_its_layer_alone(cubes, side, data):
    axis = data.draw(st.integers(0, 2))
    layer = data.draw(st.integers(0, cubes[axis] - 1))
    plane = [other for other in range(3) if other != axis]
    square = cubes[plane[0]] == cubes[plane[1]]
    quarters = data.draw(st.integers(1, 3)) if square else 2
    image = numbered(*(many * side for many in cubes))
    turned = LayerPlan(side, (LayerTurn(axis, layer, quarters),))(image)
    slabs = np.split(image[0].numpy(), cubes[axis], axis)
    slabs[layer] = np.rot90(slabs[layer], quarters, plane)
    assert np.array_equal(turned[0].numpy(), np.concatenate(slabs, axis))


def test_a_whole_number_of_rounds_changes_nothing():
    image = numbered(6, 6, 6)
    for quarters, times in ((1, 4), (2, 2), (3, 4)):
        for axis in range(3):
            turns = (LayerTurn(axis, 1, quarters),) * times
            assert torch.equal(LayerPlan(2, turns)(image), image)


def test_turning_every_layer_of_an_axis_turns_the_volume():
    image = numbered(6, 6, 6)
    for axis, plane in ((0, (2, 3)), (1, (1, 3)), (2, (1, 2))):
        turns = tuple(LayerTurn(axis, layer, 1) for layer in range(3))
        assert torch.equal(LayerPlan(2, turns)(image), image.rot90(1, plane))


def test_every_turn_is_drawn_as_often():
    drawn = torch.zeros(3, 4, 3)
    for seed in range(300):
        for axis, layer, quarters in LayerTurns(2, 12).draw((8, 8, 8), generator(seed)).turns:
            drawn[axis, layer, quarters - 1] += 1
    assert (drawn - 100).abs().max() < 4 * 97.3**0.5


@pytest.mark.parametrize(
    ("space", "count"), [((8, 8, 8), 4), ((8, 12, 8), 5), ((2, 2, 2), 1), ((4, 4, 8), 3)]
)
def test_as_many_turns_as_layers_unless_told_otherwise(space, count):
    assert len(LayerTurns(2).draw(space, generator(0)).turns) == count


@pytest.mark.parametrize(
    ("space", "remedy"),
    [
        ((64, 64, 64), "--side 8."),
        ((56, 56, 48), "--side 8."),
        ((9, 12, 15), "--side 3."),
        ((31, 32, 32), "--patch-size 28 35 35."),
        ((3, 2, 7), "--patch-size 7 7 7."),
    ],
)
def test_a_volume_that_sub_cubes_do_not_fill_is_refused(space, remedy):
    with pytest.raises(OptionError, match="sub-cubes of 7 voxels do not fill") as fault:
        LayerTurns(7)(numbered(*space), generator(0))
    assert fault.value.remedy == f"Give {remedy}"
    LayerTurns(7).check((56, 28, 7))


@pytest.mark.parametrize("space", [(6, 6), (6, 6, 4), (6, 4), (6, 4, 5)])
def test_flips_and_turns_are_drawn_evenly_and_their_codes_tell_them(space: tuple[int, ...]) -> None:
    image = torch.rand(2, *space)
    codes = []
    for seed in range(400):
        turn = FlipTurn.draw(space, generator(seed))
        assert turn(image).shape == image.shape
        assert FlipTurn.from_code(turn.code) == turn
        codes.append(turn.code)
    shares = torch.stack(codes).mean(0)
    axes = len(space)
    assert (shares[:axes] - 0.5).abs().max() < 0.1
    expected = torch.full((4,), 0.25) if space[0] == space[1] else torch.tensor([0.5, 0, 0.5, 0])
    assert (shares[axes:] - expected).abs().max() < 0.1


def test_flips_come_before_turns() -> None:
    image = torch.arange(4).view(1, 2, 2)
    both = FlipTurn((True, False), 1)(image)
    assert torch.equal(both, torch.rot90(image.flip(1), 1, (1, 2)))
    assert not torch.equal(both, torch.rot90(image, 1, (1, 2)).flip(1))
