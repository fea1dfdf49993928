"""Blind spots: how many, where, and what stands there instead, against the published statistics and arrays."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.masking import BlindSpots, replace_spots

spaces = st.one_of(
    st.tuples(*[st.integers(1, 70)] * 2),
    st.tuples(*[st.integers(1, 24)] * 3),
)


def numbered(*space: int) -> torch.Tensor:
    """An image whose voxels hold their own place."""
    return torch.arange(int(np.prod(space)), dtype=torch.float32).reshape(1, *space)


@given(space=spaces, seed=st.integers(0, 10_000))
def test_all_but_the_hidden_voxels_stay_and_these_come_from_the_window(space, seed) -> None:
    image = numbered(*space)
    before = image.clone()
    blinded, hidden = BlindSpots()(image, generator(seed))
    assert torch.equal(image, before)
    assert torch.equal(blinded[~hidden], image[~hidden])
    spots, donors = BlindSpots().draw(space, generator(seed))
    assert torch.equal(hidden[0].nonzero(), spots[_order(spots, space)])
    assert torch.equal(blinded[0][tuple(spots.T)], image[0][tuple(donors.T)])
    for axis, extent in enumerate(space):
        assert ((donors[:, axis] >= 0) & (donors[:, axis] < extent)).all()
        away = (donors[:, axis] - spots[:, axis]).abs()
        middle = (spots[:, axis] >= 5) & (spots[:, axis] < extent - 5)
        assert (away <= 10).all()
        assert (away[middle] <= 5).all()


@given(space=spaces, seed=st.integers(0, 10_000))
def test_at_most_one_hidden_voxel_a_box(space, seed) -> None:
    edge = BlindSpots().edge(len(space))
    spots, _ = BlindSpots().draw(space, generator(seed))
    assert len(torch.unique(spots // edge, dim=0)) == len(spots)


def test_published_counts_and_reach(golden) -> None:
    known = np.load(golden / "voidseg" / "n2v_statistics.npz")
    counts, away, own = [], [], 0
    for seed in range(1500):
        spots, donors = BlindSpots().draw((64, 64), generator(seed, "spots"))
        counts.append(len(spots))
        apart = (donors - spots).abs().amax(1)
        away.append(int(apart.max()))
        own += int((apart == 0).sum())
    theirs = known["masked_per_64x64_patch"]
    assert (min(counts), max(counts)) == (theirs.min(), theirs.max()) == (29, 36)
    assert abs(np.mean(counts) - theirs.mean()) < 4 * theirs.std() / len(theirs) ** 0.5
    assert abs(np.std(counts) - theirs.std()) < 0.2
    assert max(away) == int(known["max_chebyshev_offset"]) == 10
    share = own / sum(counts)
    assert abs(share - 1 / 121) < 4 * (1 / 121 / sum(counts)) ** 0.5


def test_the_published_batch_is_what_replacing_gives(golden) -> None:
    """The crops are found in the images again, the donors in the windows; replacing then gives the published input."""
    known = np.load(golden / "voidseg" / "n2v_batch.npz")
    assert BlindSpots().edge(2) == int(known["box_size"])
    images = known["X"][..., 0]
    places = {value: where for where, value in np.ndenumerate(images)}
    for seen, target, mask in zip(
        known["network_input"][..., 0],
        known["target_and_mask"][..., 0],
        known["target_and_mask"][..., 1] > 0,
        strict=True,
    ):
        assert 29 <= mask.sum() <= 36
        row, column = np.argwhere(~mask)[0]
        image, first, second = places[seen[row, column]]
        crop = images[image, first - row : first - row + 64, second - column : second - column + 64]
        assert (target[mask] == crop[mask]).all()
        spots = np.argwhere(mask)
        donors = []
        for spot in spots:
            found = np.argwhere(crop == seen[tuple(spot)])
            assert len(found) == 1
            donors.append(found[0])
        ours = replace_spots(*map(torch.from_numpy, (crop.copy(), spots, np.array(donors))))
        assert (ours.image.numpy() == seen).all()
        assert (ours.hidden.numpy() == mask).all()
        starts = np.clip(spots - 5, 0, 64 - 11)
        assert ((donors - starts >= 0) & (donors - starts < 11)).all()


def test_each_channel_has_spots_of_its_own() -> None:
    image = numbered(64, 64).repeat(2, 1, 1)
    _, hidden = BlindSpots()(image, generator(0))
    assert hidden[0].sum() > 0
    assert not torch.equal(hidden[0], hidden[1])


@settings(max_examples=10)
@given(percent=st.floats(0.1, 20), dims=st.integers(2, 3))
def test_as_many_are_hidden_as_asked_for(percent, dims) -> None:
    spots = BlindSpots(percent=percent)
    edge = spots.edge(dims)
    space = (edge * 4,) * dims
    assert len(spots.draw(space, generator(0))[0]) == 4**dims


def test_all_values_are_read_before_any_is_replaced() -> None:
    image = torch.tensor([1.0, 2.0])
    swapped = replace_spots(image, torch.tensor([[0], [1]]), torch.tensor([[1], [0]]))
    assert swapped.image.tolist() == [2.0, 1.0]
    assert swapped.hidden.all()


def _order(spots: torch.Tensor, space: tuple[int, ...]) -> torch.Tensor:
    """Row-major order of positions."""
    weights = torch.tensor([int(np.prod(space[axis + 1 :])) for axis in range(len(space))])
    return (spots * weights).sum(1).argsort()
