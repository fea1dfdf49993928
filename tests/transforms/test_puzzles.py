"""Orders far apart, pieces in their cells, scrambling and its undoing."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlabeled.errors import OptionError, ScanError
from unlabeled.rng import generator
from unlabeled.transforms.puzzles import (
    Cells,
    Disorder,
    PieceCutter,
    Scramble,
    assemble,
    choose_permutations,
    cut,
    half_turn,
    stretch,
)

PLANES = ((1, 2), (0, 1))


def distances(rows: np.ndarray) -> np.ndarray:
    """Hamming distances of all pairs of rows."""
    apart = (rows[:, None] != rows[None]).sum(-1)
    return apart[np.triu_indices(len(rows), 1)]


def plain_choice(pieces: int, count: int, rule: str, first: tuple[int, ...]) -> list[list[int]]:
    """The rule as one says it, slow."""
    orders = np.array(list(itertools.permutations(range(pieces))))
    chosen = [next(n for n, row in enumerate(orders.tolist()) if tuple(row) == first)]
    while len(chosen) < count:
        apart = (orders[:, None] != orders[chosen][None]).sum(-1)
        worth = apart.min(1) if rule == "max-min" else apart.sum(1)
        worth[chosen] = -1
        chosen.append(int(worth.argmax()))
    return orders[chosen].tolist()


@given(
    pieces=st.integers(2, 6),
    share=st.floats(0, 1),
    rule=st.sampled_from(["max-min", "max-mean"]),
    seed=st.integers(0, 1000),
)
def test_orders_are_chosen_as_the_plain_rule_says(pieces, share, rule, seed):
    total = len(list(itertools.permutations(range(pieces))))
    count = max(1, min(30, round(share * total)))
    first = tuple(np.random.default_rng(seed).permutation(pieces).tolist())
    chosen = choose_permutations(pieces, count, rule, first)
    assert chosen.tolist() == plain_choice(pieces, count, rule, first)


@pytest.mark.parametrize("rule", ["max-min", "max-mean"])
def test_all_orders_can_be_chosen(rule):
    chosen = choose_permutations(5, 120, rule)
    assert len({tuple(row) for row in chosen.tolist()}) == 120
    assert chosen[0].tolist() == [0, 1, 2, 3, 4]


def test_orders_of_nine_tiles_are_farther_apart_than_random_ones():
    chosen = choose_permutations(9, 100)
    rng = np.random.default_rng(0)
    random = [
        distances(np.array([rng.permutation(9) for _ in range(100)])).min() for _ in range(20)
    ]
    assert (np.sort(chosen, 1) == np.arange(9)).all()
    assert distances(chosen).min() == 6 > max(random)


def test_the_chosen_orders_are_kept_and_cannot_be_changed():
    chosen = choose_permutations(8, 20)
    assert choose_permutations(8, 20) is chosen
    with pytest.raises(ValueError, match="read-only"):
        chosen[0, 0] = 3


@pytest.mark.parametrize(
    ("pieces", "count", "words"), [(27, 5, "27 pieces"), (3, 7, "6 orders"), (1, 1, "1 pieces")]
)
def test_orders_that_there_are_not_are_refused(pieces, count, words):
    with pytest.raises(OptionError, match=words):
        choose_permutations(pieces, count)
    with pytest.raises(ValueError, match="no order"):
        choose_permutations(3, 2, "max-min", (0, 0, 1))


grids = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 5), st.integers(0, 2)), min_size=2, max_size=3)  # fmt: skip


def laid(axes: list[tuple[int, int, int, int]]) -> Cells:
    """Cells from (pieces, edge, slack, rest) an axis."""
    grid, size, slack, rest = zip(*axes, strict=True)
    space = tuple(
        g * (e + s) + min(r, g - 1) for g, e, s, r in zip(grid, size, slack, rest, strict=True)
    )
    cells = Cells(grid, space, size)
    assert cells.slack == slack
    return cells


@given(axes=grids, seed=st.integers(0, 1000), jitter=st.floats(0, 1))
def test_pieces_stay_in_their_cells_and_never_overlap(axes, seed, jitter):
    cells = laid(axes)
    taken = np.zeros(cells.space, int)
    starts = cells.starts(generator(seed), jitter)
    for number, start in enumerate(starts):
        cell = np.unravel_index(number, cells.grid)  # row by row
        for at, corner, edge, size in zip(start, cell, cells.edges, cells.size, strict=True):
            assert corner * edge <= at <= (corner + 1) * edge - size
        taken[tuple(slice(at, at + e) for at, e in zip(start, cells.size, strict=True))] += 1
    assert taken.max() == 1
    free = [(1 - jitter) * slack for slack in cells.slack]
    for one, other in itertools.combinations(range(len(starts)), 2):
        places = [np.unravel_index(number, cells.grid) for number in (one, other)]
        for axis, least in enumerate(free):
            if places[1][axis] == places[0][axis] + 1:
                between = starts[other][axis] - starts[one][axis] - cells.size[axis]
                assert between >= least - 1e-9


@given(axes=grids)
def test_in_the_middle_neighbours_are_the_slack_apart(axes):
    cells = laid(axes)
    starts = np.array(cells.starts()).reshape(*cells.grid, -1)
    for axis in range(len(cells.grid)):
        steps = np.diff(starts, axis=axis)[..., axis]
        assert (steps - cells.size[axis] == cells.slack[axis]).all()
    assert cells.starts(generator(0), jitter=0.0) == cells.starts()


def test_every_offset_is_as_likely():
    cells = Cells((2, 2), (12, 10), (3, 5))
    seen = np.array([cells.starts(generator(seed)) for seed in range(400)])
    for axis, slack in enumerate(cells.slack):
        offsets = seen[..., axis] % cells.edges[axis]
        counts = np.bincount(offsets.ravel(), minlength=slack + 1)
        assert len(counts) == slack + 1
        if slack:
            assert stats.chisquare(counts).pvalue > 1e-3


@given(axes=grids, seam=st.integers(0, 2))
def test_cut_pieces_go_together_again(axes, seam):
    grid, size, _, _ = zip(*axes, strict=True)
    space = tuple(g * e for g, e in zip(grid, size, strict=True))
    image = torch.rand(2, *space, generator=generator(0))
    pieces = cut(image, Cells(grid, space, size).starts(), size)
    assert torch.equal(assemble(pieces, grid), image)
    apart = assemble(pieces, grid, seam=seam)
    assert apart.shape[1:] == tuple(g * (e + seam) - seam for g, e in zip(grid, size, strict=True))
    assert apart.sum() == pytest.approx(float(image.sum()), rel=1e-4)


def test_cells_that_do_not_hold_a_piece_are_refused():
    with pytest.raises(ValueError, match="larger than a cell"):
        Cells((2, 2), (9, 9), (5, 4))
    with pytest.raises(ValueError, match="differ in their axes"):
        Cells((2, 2), (9, 9, 9), (4, 4))


@given(dims=st.integers(2, 3), data=st.data())
def test_a_half_turn_is_a_rotation_that_undoes_itself(dims, data):
    edges = data.draw(st.lists(st.integers(1, 6), min_size=dims, max_size=dims))
    plane = data.draw(st.sampled_from(list(itertools.combinations(range(dims), 2))))
    image = torch.rand(3, *edges, generator=generator(1))
    turned = half_turn(image, plane, dims)
    assert turned.shape == image.shape
    assert torch.equal(turned, torch.rot90(image, 2, [axis + 1 for axis in plane]))
    assert torch.equal(half_turn(turned, plane, dims), image)


@given(seed=st.integers(0, 1000), p=st.floats(0, 1), planes=st.sampled_from([(), PLANES]))
def test_scrambling_is_undone_bit_for_bit(seed, p, planes):
    scramble = Scramble(choose_permutations(8, 10), planes, p)
    pieces = torch.rand(8, 1, 3, 4, 2, generator=generator(2))
    order, disorder = scramble.draw(generator(seed))
    slots = disorder(pieces)
    assert disorder.permutation == tuple(scramble.orders[order])
    assert torch.equal(disorder.undo(slots), pieces)
    assert disorder.turned.sum(0).max(initial=0) <= 1
    for slot, piece in enumerate(disorder.permutation):
        expected = pieces[piece]
        for plane, bits in zip(planes, disorder.turned, strict=True):
            expected = half_turn(expected, plane, 3) if bits[slot] else expected
        assert torch.equal(slots[slot], expected)


def test_tiles_of_a_picture_are_scrambled_alike():
    scramble = Scramble(choose_permutations(9, 30), ((0, 1),), 1.0)
    image = torch.rand(3, 12, 9, generator=generator(0))
    tiles = cut(image, Cells((3, 3), (12, 9), (4, 3)).starts(), (4, 3))
    _, disorder = scramble.draw(generator(5))
    assert disorder.turned.all()
    assert not torch.equal(disorder(tiles), tiles)
    assert torch.equal(assemble(disorder.undo(disorder(tiles)), (3, 3)), image)


def test_undoing_both_turns_of_a_slot_works_too():
    pieces = torch.rand(8, 1, 3, 4, 2)
    disorder = Disorder(tuple(range(8)), np.ones((2, 8), bool), PLANES)
    assert torch.equal(disorder.undo(disorder(pieces)), pieces)


def test_turns_are_as_frequent_as_asked():
    scramble = Scramble(choose_permutations(8, 4), PLANES, 0.6)
    turned = np.stack([scramble.draw(generator(seed))[1].turned for seed in range(1500)])
    for counts in turned.sum(0).ravel().tolist():  # by plane and slot
        assert stats.binomtest(counts, 1500, 0.3).pvalue > 1e-4
    orders = [scramble.draw(generator(seed))[0] for seed in range(1500)]
    assert stats.chisquare(np.bincount(orders, minlength=4)).pvalue > 1e-3


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e5), shift=st.floats(-1e4, 1e4))
def test_stretching_ignores_scale_and_shift(seed, scale, shift):
    pieces = torch.rand(4, 2, 3, 3, generator=generator(seed))
    stretched = stretch(pieces)
    assert stretched.amin((2, 3)).eq(-1).all()
    assert stretched.amax((2, 3)).eq(1).all()
    changed = stretch(pieces.double() * scale + shift)
    torch.testing.assert_close(changed.float(), stretched, atol=1e-4, rtol=0)


def held(array: torch.Tensor, foreground=None) -> SimpleNamespace:
    """A record in memory that refuses to be read outside."""
    space = tuple(array.shape[1:])

    def patch(start, size):
        assert all(0 <= a <= s - e for a, e, s in zip(start, size, space, strict=True))
        place = (slice(a, a + e) for a, e in zip(start, size, strict=True))
        return array[(slice(None), *place)]

    box = foreground or tuple((0, edge) for edge in space)
    return SimpleNamespace(space=space, patch=patch, foreground=box)


def positions(*space: int) -> torch.Tensor:
    """An image whose channels are the voxels' positions."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(e)) for e in space], indexing="ij"))


def test_the_grid_takes_what_it_needs_about_the_foreground():
    cutter = PieceCutter((2, 2, 2), (4, 4, 4), (2, 2, 0))
    record = held(positions(40, 30, 8), foreground=((20, 30), (0, 6), (0, 8)))
    pieces = cutter(record)
    assert pieces.shape == (8, 3, 4, 4, 4)
    first = pieces[:, :, 0, 0, 0]
    # 12 voxels about 25, 12 as near to 3 as the border lets, all 8
    assert first[:, 0].tolist() == [20.0] * 4 + [26.0] * 4
    assert first[:, 1].tolist() == [1.0, 1.0, 7.0, 7.0] * 2
    assert first[:, 2].tolist() == [0.0, 4.0] * 4


def test_short_scans_get_smaller_gaps_and_shorter_ones_are_refused():
    cutter = PieceCutter((2, 2, 2), (4, 5, 4), (10, 10, 10))
    assert cutter.cells((9, 13, 100)) == Cells((2, 2, 2), (9, 13, 28), (4, 5, 4))
    for seed in range(20):
        assert cutter(held(torch.rand(1, 9, 13, 30)), generator(seed)).shape == (8, 1, 4, 5, 4)
    with pytest.raises(ScanError, match="7 x 13 x 30 voxels, and 2 x 2 x 2 pieces") as fault:
        cutter(held(torch.rand(1, 7, 13, 30)))
    assert "--patch-size 3 5 4 " in fault.value.remedy


def test_a_random_place_reaches_all_of_the_scan():
    cutter = PieceCutter((2, 2), (3, 3), (1, 1), place="random")
    record = held(positions(30, 12))
    corners = torch.stack([cutter(record, generator(seed))[0, :, 0, 0] for seed in range(1000)])
    assert corners.amin(0).tolist() == [0, 0]
    assert corners.amax(0).tolist() == [23, 5]
    assert cutter(record)[0, :, 0, 0].tolist() == [11, 2]  # without randomness, in the middle
